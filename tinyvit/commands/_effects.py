"""Options that do nothing beside the others that were typed: each is an error, not a silence.

One table for all commands; ``_help.PanelCommand`` asks it once the options are parsed. Checks that
need files or models are made where these are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Params = Mapping[str, Any]


@dataclass(frozen=True)
class Effect:
    """A condition for options to have an effect.

    Args:
        options: The options that need it, by parameter name.
        holds: Returns whether they have an effect, from the values of all options.
        needs: The end of the sentence ``--OPTION ...``.
    """

    options: tuple[str, ...]
    holds: Callable[[Params], Any]
    needs: str


def _given(name: str) -> Callable[[Params], Any]:
    return lambda params: params[name]


def _sampler(params: Params) -> Any:
    from tinyvit.api.labels import view_sampler

    return view_sampler(dict(params))


def _of_clip(params: Params) -> bool:
    return any(name.startswith("open_clip:") for name in params["teacher"] or ())


_CLIP = Effect(("teacher_classes", "teacher_prompts"), _of_clip, "is read only by a teacher open_clip:NAME")
_CLUSTER = Effect(
    ("device",),
    lambda params: params["ray"] is None or ":" not in params["device"],
    "names one GPU, and --ray uses those of the cluster: give --device cuda",
)
_TEACHER_OPTIONS = tuple(
    f"teacher_{name}"
    for name in ("weights", "size", "mean", "std", "interpolation", "crop_pct", "classes", "prompts", "output")
)
_TRAIN = (Effect(("val_interval",), lambda params: _has_val(params), "needs --val"),)
_EFFECTS: dict[str, tuple[Effect, ...]] = {
    "models": (Effect(("pattern",), lambda params: not params["env"], "lists models, and --env shows none"),),
    "label": (
        Effect(
            ("scale", "ratio", "hflip", "seed"),
            lambda params: not params["centre"],
            "describes random views, and --centre makes none",
        ),
        Effect(
            ("color_jitter_prob",),
            lambda params: any(_sampler({**params, "color_jitter_prob": 1.0}).jitter_strength),
            "needs --color-jitter, or a preset that has it",
        ),
        Effect(("remode",), lambda params: _sampler(params).erase_prob, "needs --reprob, or a preset that has it"),
        Effect(
            ("mixup_prob",),
            lambda params: _sampler({**params, "mixup_prob": 1.0}).mixes,
            "needs --mixup or --cutmix, or a preset that has one",
        ),
        Effect(
            ("mixup_switch_prob",),
            lambda params: _sampler(params).mixup and _sampler(params).cutmix,
            "needs both --mixup and --cutmix, or a preset that has both",
        ),
        Effect(("labels",), _given("check_images"), "needs --check-images above 0"),
        _CLIP,
        _CLUSTER,
    ),
    "labels verify": (
        Effect((*_TEACHER_OPTIONS, "sample", "device"), _given("teacher"), "needs --teacher, which labels rows again"),
        _CLIP,
    ),
    "labels export": (
        Effect(("ranks",), lambda params: not _is_imported(params), "has no effect: imported labels keep their files"),
    ),
    "pretrain": _TRAIN,
    "finetune": _TRAIN,
    "detect test": (Effect(("limit_images",), _given("eval_on_train"), "takes training images: add --eval-on-train"),),
    "probe linear": (_CLUSTER,),
    "bench run": (
        Effect(("against_engine", "against_precision"), lambda p: p["against"] or p["baseline"], "needs --against"),
        Effect(
            (
                *("engine", "precision", "threads", "batch_size", "size", "allocator", "weights", "device"),
                *("against_engine", "against_precision"),
            ),
            lambda params: params["baseline"] is None,
            "has no effect beside --baseline, which measures what the baseline holds",
        ),
        Effect(("fail_if_slower", "relative", "allow_undecided"), _given("baseline"), "needs --baseline"),
        Effect(
            ("latency_bound",),
            lambda params: "Server" in (params["scenario"] or ""),
            "needs --scenario Server, whose latency it bounds",
        ),
        Effect(("mlperf_length",), _given("scenario"), "needs --scenario, whose runs it makes longer"),
    ),
    "export predict": (
        Effect(("topk",), lambda params: not _gives_maps(params), "has no effect: the file gives feature maps"),
    ),
    "export onnx": (
        Effect(("out_indices",), _given("features"), "needs --features"),
        Effect(("classes",), lambda params: not params["features"], "names logits, and --features exports none"),
        Effect(
            ("num_classes",),
            lambda params: params["random_weights"] or not params["features"],
            "has no effect on --features with weights",
        ),
    ),
}


def _has_val(params: Params) -> bool:
    """Return whether there is validation data; the recipe's own is known only when it is read."""
    if params["val"] is not None:
        return True
    from tinyvit.backbones.distill.train import load_recipe
    from tinyvit.core.errors import InputError

    typed = [*(params["cfg_options"] or []), *(params["more"] or [])]
    try:
        return any(text.startswith("val=") for text in typed) or load_recipe(params["config"]).val is not None
    except InputError:  # the command itself reports a recipe that cannot be read
        return True


def _is_imported(params: Params) -> bool:
    from tinyvit.backbones.distill.store import SoftLabelStore

    return SoftLabelStore.open(params["store"], params["labels"]).header.coding == "official"


def _gives_maps(params: Params) -> bool:
    from tinyvit.export import OnnxModel

    return OnnxModel(params["file"]).card.task != "classifier"


def idle_options(command: str, params: Params, typed: set[str]) -> Iterator[tuple[str, str]]:
    """Yield each typed option that has no effect, by parameter name, and the end of its sentence.

    Args:
        command: The command without ``tinyvit``, such as ``labels verify``.
        params: The values of all options, by parameter name.
        typed: The names of those on the command line.
    """
    for effect in _EFFECTS.get(command, ()):
        named = [name for name in effect.options if name in typed]
        if named and not effect.holds(params):
            yield from ((name, effect.needs) for name in named)
