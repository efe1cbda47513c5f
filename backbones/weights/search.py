"""Finding a model inside a checkpoint, by the names of the model itself.

Nesting and prefixes are one thing here: every tensor has a path of names joined by dots. A *place*
is the start of such paths. The place under which most names of the model are found, in a shape that
fits, holds the model, whatever it is called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import torch
from torch import Tensor

from tinyvit.core.errors import InputError

from .files import Checkpoint
from .names import is_classifier, join_qkv, naming_of, to_timm_name

#: The remedy where several models fit.
_CHOOSE = (
    "choose one with --weights-key or --prefix (weights_key and prefix in Python, configs and recipes; of a teacher: "
    "--teacher-weights-key, --teacher-prefix)"
)
#: A place holds a second model if it has this share of the best one's parameters.
_RIVAL = 0.5


class Choice(TypedDict, total=False):
    """Which model of a checkpoint is taken, and whether in part; arguments of ``load_weights``."""

    weights_key: str | None
    prefix: str | None
    partial: bool


def choice_of(settings: object) -> Choice:
    """Return the choice in a mapping's values or an object's attributes, as far as one was made."""
    values = settings if isinstance(settings, Mapping) else vars(settings)
    made: Any = {key: values[key] for key in Choice.__annotations__ if values.get(key) not in (None, False)}
    return made


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
    weights_key: str | None = None,
    prefix: str | None = None,
    translate: Callable[[str], str] | None = None,
) -> Found:
    """Return the model that a checkpoint holds.

    If there are several, averaged weights (EMA) are taken before a teacher's, and these before
    others. The best ones of a validation come last; see :func:`rank`.

    Args:
        checkpoint: The file's content.
        target: Names of the model -> its tensors.
        weights_key: The place to take, or a part of it: ``model_ema``, ``state_dict.student``.
        prefix: All that stands before the model's names in their state dict, such as ``module.``;
            empty for nothing.
        translate: The model's name of a parameter; by default :func:`to_timm_name`.

    Raises:
        InputError: The checkpoint has no tensors, nothing of the model, nothing at ``weights_key``
            or ``prefix``, or two models between which no rule decides.
    """
    translate = translate or _translation(target)
    all_tensors = _paths(checkpoint, target, translate)
    if not all_tensors:
        raise InputError(f"{checkpoint.origin} holds no tensors at any depth; give a file with a state dict")
    places = _vote(all_tensors, target, translate)
    rivals = _rivals(places, target)
    wanted = rivals
    if weights_key is not None or prefix is not None:
        containers = {container for container, _ in all_tensors.values()}
        wanted = _wanted(checkpoint, places, rivals, containers, weights_key, prefix)
    chosen = _choose(checkpoint, places, wanted, len(all_tensors))
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
    return Found(
        chosen.rstrip("."),
        tensors,
        naming_of(names),
        outside,
        [place.rstrip(".") for place in rivals if place != chosen],
    )


def _translation(target: Mapping[str, Tensor]) -> Callable[[str], str]:
    is_deit = "cls_token" in target
    return lambda name: to_timm_name(name, is_deit)


def _paths(
    checkpoint: Checkpoint, target: Mapping[str, Tensor], translate: Callable[[str], str]
) -> dict[str, tuple[str, Tensor]]:
    """Return path -> (path of the mapping that holds it, tensor)."""
    flat = {name.replace(".", "_"): name for name in target}
    found = {
        f"{container}{_unwrapped(_with_dots(name, flat), target, translate)}": (container, value)
        for container, name, value in checkpoint.tensors()
    }
    joined = join_qkv({path: value for path, (_, value) in found.items()})
    return {path: (_holder(path, found), value) for path, value in joined.items()}


def _with_dots(name: str, flat: Mapping[str, str]) -> str:
    """Return a name with its dots again where it has slashes, or a buffer underscores.

    mmcv 1 keeps a second model so: ``ema_backbone_conv1_weight`` becomes
    ``ema_.backbone.conv1.weight``.
    """
    if "." in name:
        return name
    name = name.replace("/", ".")
    at = 0 if "_" in name and "." not in name else -1
    while at >= 0:
        if name[at:] in flat:
            return f"{name[:at]}{'.' if at else ''}{flat[name[at:]]}"
        at = name.find("_", at) + 1 or -1
    return name


def _unwrapped(name: str, target: Mapping[str, Tensor], translate: Callable[[str], str]) -> str:
    """Return a name without the wrappers inside it, if it is the model's then.

    Sharding, recomputing and compiling put a module of their own around each block:
    ``stages.0._fsdp_wrapped_module.blocks``.
    """
    parts = name.split(".")
    for at in range(len(parts) - 1, 0, -1):
        if parts[at].startswith("_") or parts[at] == "module":
            if any(translate(".".join(parts[start:])) in target for start in range(len(parts))):
                break
            del parts[at]
    found = any(translate(".".join(parts[start:])) in target for start in range(len(parts)))
    return ".".join(parts) if found else name


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
    return places


def _rivals(places: Mapping[str, Mapping[str, Tensor]], target: Mapping[str, Tensor]) -> list[str]:
    """Return the place with most of the model in shapes that fit, and those with half of that."""
    fitting = {place: sum(_may_fit(target[n], v) for n, v in found.items()) for place, found in places.items()}
    best = max(fitting, key=lambda place: (fitting[place], len(places[place])), default="")
    return [place for place in places if place == best or fitting[place] >= max(_RIVAL * fitting[best], 1)]


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


def _wanted(
    checkpoint: Checkpoint,
    places: Iterable[str],
    rivals: Sequence[str],
    containers: set[str],
    key: str | None,
    prefix: str | None,
) -> list[str]:
    """Return the places that a key and a prefix leave."""
    wanted = [place for place in places if key is None or f".{key.strip('.')}." in f".{place}"]
    if prefix is not None:
        start = prefix.strip(".") + "." if prefix.strip(".") else ""
        dicts = {"", *containers}
        wanted = [place for place in wanted if place.endswith(start) and place[: len(place) - len(start)] in dicts]
    if rivals and not wanted:
        given = {"weights key": key, "prefix": prefix}
        asked = " and ".join(f"{name} {value!r}" for name, value in given.items() if value is not None)
        raise InputError(
            f"{checkpoint.origin} has no weights of the model at the {asked}; it has some at {_listed(rivals)}"
        )
    return wanted


def _choose(
    checkpoint: Checkpoint, places: Mapping[str, Mapping[str, Tensor]], wanted: Sequence[str], count: int
) -> str:
    """Return the place to take."""
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
        raise InputError(f"{checkpoint.origin} holds several models that fit, at {_listed(best)}; {_CHOOSE}")
    return best[0]


def _listed(places: Iterable[str]) -> str:
    return ", ".join(repr(place.rstrip(".") or "the outermost names") for place in places) or "no place"


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def rank(place: str, swapped: bool = False) -> int:
    """Return the order in which a place of several is taken, lowest first.

    Averaged weights have 0, a teacher's 1, and others 2. Plain weights beside their average have 3,
    as mmengine and mmcv 1 write them. The best ones of a validation have 4, and an
    optimiser's records 5.

    Args:
        place: A path of names with dots.
        swapped: Whether mmengine wrote the file: it keeps the average in ``state_dict`` and the
            plain weights in ``ema_state_dict``.
    """
    if (swapped and place.startswith("ema_state_dict.")) or re.search(r"(?:^|\.)ema_(?:[^.]*_)?\.$", place):
        return 3
    if place.startswith("validation."):
        return 4
    parts = place.split(".")
    if any(re.match("optim|grad|exp_avg|momentum", part) for part in parts):
        return 5
    if any(re.search(r"(?:^|[_\d])(?:ema|swa|avg)(?:$|[_\d])|averag|shadow|polyak", part) for part in parts):
        return 0
    return 1 if any("teacher" in part for part in parts) else 2


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
