"""Finding a model inside a checkpoint, by the names of the model itself.

Nesting and prefixes are one thing here: every tensor has a path of names joined by dots. A *place*
is the start of such paths. The place under which most names of the model are found, in a shape that
fits, holds the model, whatever it is called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tinyvit.core.errors import InputError

from .files import Checkpoint
from .names import is_classifier, join_qkv, naming_of, to_timm_name

#: A place holds a second model if it has this share of the best one's parameters.
_RIVAL = 0.5


@dataclass
class Found:
    """A model in a checkpoint.

    Attributes:
        place: Where it was found, without a dot at the end; empty for the outermost names.
        tensors: Its tensors by the model's names.
        naming: ``official``, ``mmpretrain``, ``huggingface`` or ``timm``.
        outside: Other names of the same state dict.
        others: Other places with a whole model of the same kind.
    """

    place: str
    tensors: dict[str, Tensor]
    naming: str
    outside: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def find_weights(
    checkpoint: Checkpoint,
    target: Mapping[str, Tensor],
    *,
    key: str | None = None,
    translate: Callable[[str], str] | None = None,
) -> Found:
    """Return the model that a checkpoint holds.

    If there are several, averaged weights (EMA) are taken before a teacher's, and these before
    others. The best ones of a validation come last; see :func:`rank`.

    Args:
        checkpoint: The file's content.
        target: Names of the model -> its tensors.
        key: The place to take, or a part of it: ``model_ema``, ``state_dict.student``.
        translate: The model's name of a parameter; by default :func:`to_timm_name`.

    Raises:
        InputError: The checkpoint has no tensors, nothing of the model, nothing at ``key``, or two
            models between which no rule decides.
    """
    all_tensors = _paths(checkpoint)
    if not all_tensors:
        raise InputError(f"{checkpoint.origin} holds no tensors at any depth; give a file with a state dict")
    translate = translate or _translation(target)
    places = _vote(all_tensors, target, translate)
    chosen, others = _choose(checkpoint, places, len(all_tensors), key)
    tensors, names = {}, []
    for path, (_, value) in all_tensors.items():
        if path.startswith(chosen):
            names.append(path.removeprefix(chosen))
            tensors.setdefault(translate(names[-1]), value)
    taken = _add_classifier(tensors, all_tensors, chosen, translate)
    container = max((c for c, _ in all_tensors.values() if chosen.startswith(c)), key=len, default="")
    outside = [
        path.removeprefix(container)
        for path, (holder, _) in all_tensors.items()
        if holder == container and not path.startswith(chosen) and path not in taken
    ]
    return Found(chosen.rstrip("."), tensors, naming_of(names), outside, [other.rstrip(".") for other in others])


def _translation(target: Mapping[str, Tensor]) -> Callable[[str], str]:
    is_deit = "cls_token" in target
    return lambda name: to_timm_name(name, is_deit)


def _paths(checkpoint: Checkpoint) -> dict[str, tuple[str, Tensor]]:
    """Return path -> (path of the mapping that holds it, tensor)."""
    found = {f"{container}{name}": (container, value) for container, name, value in checkpoint.tensors()}
    joined = join_qkv({path: value for path, (_, value) in found.items()})
    return {path: (_holder(path, found), value) for path, value in joined.items()}


def _holder(path: str, found: Mapping[str, tuple[str, Tensor]]) -> str:
    return found[path if path in found else path.replace(".qkv.", ".query.")][0]


def _vote(
    paths: Mapping[str, tuple[str, Tensor]], target: Mapping[str, Tensor], translate: Callable[[str], str]
) -> dict[str, dict[str, Tensor]]:
    """Return place -> the model's tensors that are found there; classifiers do not count."""
    places: dict[str, dict[str, Tensor]] = {}
    for path, (_, value) in paths.items():
        start = 0
        while start >= 0:
            name = translate(path[start:])
            if name in target and not is_classifier(name):
                places.setdefault(path[:start], {}).setdefault(name, value)
            start = path.find(".", start) + 1 or -1
    fitting = {place: sum(_may_fit(target[n], v) for n, v in found.items()) for place, found in places.items()}
    best = max(fitting, key=lambda place: (fitting[place], len(places[place])), default="")
    return {
        place: found
        for place, found in places.items()
        if place == best or (fitting[place] >= _RIVAL * fitting[best] and fitting[place] > 0)
    }


def _may_fit(target: Tensor, value: Tensor) -> bool:
    """Return whether a tensor has the model's shape, or may get it by resizing."""
    return value.ndim == target.ndim and (
        value.shape == target.shape or (value.ndim > 1 and len(value) == len(target) and _resizable(value, target))
    )


def _resizable(value: Tensor, target: Tensor) -> bool:
    """Return whether shapes differ as those of bias tables, position embeddings or first
    convolutions do.
    """
    if value.ndim == 4:
        return value.shape[2:] == target.shape[2:]
    return value.ndim == 2 or value.shape[2:] == target.shape[2:]


def _choose(
    checkpoint: Checkpoint, places: Mapping[str, Mapping[str, Tensor]], count: int, key: str | None
) -> tuple[str, list[str]]:
    """Return the place to take, and the others."""
    if key is not None:
        wanted = [place for place in places if f".{key.strip('.')}." in f".{place}"]
        if not wanted:
            raise InputError(
                f"{checkpoint.origin} has no weights of the model at {key!r}; it has some at {_listed(places)}"
            )
    else:
        wanted = list(places)
    if not wanted:
        raise InputError(
            f"{checkpoint.origin} does not fit: none of its {count} tensors has a name of the model; give a "
            "checkpoint of this model or its family"
        )
    most = max(len(places[place]) for place in wanted)
    whole = [place for place in wanted if len(places[place]) == most]
    swapped = "message_hub" in checkpoint.content and "ema_state_dict" in checkpoint.content
    ranks = {place: rank(place, swapped) for place in whole}
    best = [place for place in whole if ranks[place] == min(ranks.values())]
    if any(not _same(places[best[0]], places[place]) for place in best[1:]):
        raise InputError(
            f"{checkpoint.origin} holds several models that fit, at {_listed(best)}; name one with "
            "weights_key= of create_model or load_weights, or save it alone"
        )
    return best[0], [place for place in places if place != best[0]]


def _listed(places: Iterable[str]) -> str:
    return ", ".join(repr(place.rstrip(".") or "the outermost names") for place in places) or "no place"


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def rank(place: str, swapped: bool = False) -> int:
    """Return the order in which a place of several is taken, lowest first.

    0: averaged weights; 1: a teacher's; 2: others; 3: mmengine's plain weights beside its average;
    4: the best ones of a validation.

    Args:
        place: A path of names with dots.
        swapped: Whether mmengine wrote the file: it keeps the average in ``state_dict`` and the
            plain weights in ``ema_state_dict``.
    """
    if swapped and place.startswith("ema_state_dict."):
        return 3
    if place.startswith("validation."):
        return 4
    if any(re.search(r"(?:^|[_\d])(?:ema|swa)(?:$|[_\d])|average|shadow", part) for part in place.split(".")):
        return 0
    return 1 if any("teacher" in part for part in place.split(".")) else 2


def _add_classifier(
    tensors: dict[str, Tensor],
    paths: Mapping[str, tuple[str, Tensor]],
    chosen: str,
    translate: Callable[[str], str],
) -> set[str]:
    """Add the classifier that lies beside the model, as in mmpretrain and Hugging Face's files;
    return the paths that were taken.
    """
    taken: set[str] = set()
    parts = chosen.split(".")[:-1]
    for length in range(len(parts) - 1, -1, -1):
        parent = "".join(f"{part}." for part in parts[:length])
        for path, (_, value) in paths.items():
            if path.startswith(parent) and not path.startswith(chosen):
                name = translate(path.removeprefix(parent))
                if is_classifier(name) and name not in tensors:
                    tensors[name] = value
                    taken.add(path)
    return taken
