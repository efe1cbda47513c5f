"""``--cfg-options``: dotted keys and values put into a config, where a misspelt key is an error."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from tinyvit.core.errors import InputError, unknown_name

#: Settings that have an option of their own.
_OPTIONS = {
    "lr": "--lr",
    "batch_size": "--batch-size",
    "max_epochs": "--epochs",
    "epochs": "--epochs",
    "max_iters": "--max-iters",
    "num_workers": "--workers",
    "workers": "--workers",
    "seed": "--seed",
    "work_dir": "--work-dir",
    "data_root": "--data-root",
    "img_size": "--img-size",
    "imgsz": "--img-size",
    "weights": "--weights",
    "pretrained": "--weights",
    "device": "--device",
}
#: Settings that mmengine's Runner reads from a config beside its arguments.
_OF_RUNNERS = {
    "activation_checkpointing",
    "broadcast_buffers",
    "compile",
    "custom_imports",
    "detect_anomalous_params",
    "efficient_conv_bn_eval",
    "find_unused_parameters",
    "model_wrapper_cfg",
    "sync_bn",
    "tta_model",
    "tta_pipeline",
}
#: Dicts without a type, by the end of their path -> the keys that their readers know.
_FREE = {
    "auto_scale_lr": {"enable", "base_batch_size"},
    "env_cfg": {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"},
    "filter_cfg": {"filter_empty_gt", "min_size"},
    "metainfo": {"classes", "palette"},
    "data_prefix": {"img", "seg"},
    "paramwise_cfg": {
        *("base_lr", "base_wd", "bias_decay_mult", "bias_lr_mult", "bypass_duplicate", "custom_keys"),
        *("dcn_offset_lr_mult", "dwconv_decay_mult", "flat_decay_mult", "norm_decay_mult"),
        *("decay_rate", "decay_type", "layer_decay_rate", "num_layers"),
    },
    "clip_grad": {"max_norm", "norm_type", "error_if_nonfinite", "foreach", "type", "clip_value"},
}
#: Dicts whose keys are names that the user chooses.
_NAMES = ("custom_keys", "default_hooks")
#: Classes of dicts that need no type, by their whole path.
_DEFAULT_TYPES = {
    "optim_wrapper": "OptimWrapper",
    "train_cfg": "EpochBasedTrainLoop",
    "val_cfg": "ValLoop",
    "test_cfg": "TestLoop",
}
_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
_SHOWN = 3


def apply_overrides(cfg: Config, overrides: Mapping[str, Any]) -> None:
    """Put dotted keys and values into a config, in place.

    Raises:
        InputError: The parent of a key does not exist, or ``model`` is not a dict afterwards. Or a
            key neither exists nor is an argument of its parent's class.
    """
    # A new type comes first, because it decides which other keys there are.
    for key, value in sorted(overrides.items(), key=lambda item: not item[0].endswith(".type")):
        _check_key(cfg, key, value)
        cfg.merge_from_dict({key: value})
    if not isinstance(cfg.get("model"), Mapping):
        raise InputError(f"--cfg-options model is {cfg.get('model')!r}; it must be a dict, so change keys below it")


def _check_key(cfg: Config, key: str, value: Any) -> None:
    node: Any = cfg
    *parents, leaf = key.split(".")
    for depth, name in enumerate(parents):
        node = _child(node, name, key, ".".join(parents[: depth + 1]))
    if not isinstance(node, (Mapping, Config, list)):
        raise InputError(f"--cfg-options {key}: {'.'.join(parents)} is {node!r}, which has no keys")
    if isinstance(node, list):
        _child(node, leaf, key, key)
        return
    if leaf not in node:
        _check_new(cfg, node, parents, leaf, key)
    elif isinstance(node[leaf], Mapping) and isinstance(value, Mapping) and not {"_delete_", "type"} & value.keys():
        for inner, part in value.items():  # mmengine merges them
            _check_key(cfg, f"{key}.{inner}", part)


def _child(node: Any, name: str, key: str, so_far: str) -> Any:
    """Return the child ``name`` of a node; it must exist, so that a misspelt key is an error."""
    if isinstance(node, (list, tuple)):
        if name.isdigit() and int(name) < len(node):
            return node[int(name)]
        raise InputError(f"--cfg-options {key}: {so_far} is not a position in a list of {len(node)}")
    if isinstance(node, (Mapping, Config)) and node.get(name) is not None:
        return node[name]
    known = [str(k) for k in node] if isinstance(node, (Mapping, Config)) else []
    raise unknown_name(f"key of --cfg-options {key}:", name, known)


def _check_new(cfg: Config, node: Any, parents: list[str], leaf: str, key: str) -> None:
    """Check that a key that does not exist yet is one that something reads."""
    known = _known(node, parents)
    if known is None or leaf in known:
        return
    # In a config of training and tests, the training's comes first.
    elsewhere = [path for path in _paths(cfg) if path.rpartition(".")[2] == leaf and path != key]
    elsewhere.sort(key=lambda path: (not path.startswith("train"), path.count(".")))
    close = difflib.get_close_matches(leaf, sorted({*map(str, node), *known}), n=_SHOWN)
    places = [_OPTIONS[leaf]] if leaf in _OPTIONS else []
    places += elsewhere[:_SHOWN] or close
    where = f"{'.'.join(parents)} of the config" if parents else "the config"
    remedy = f"did you mean {' or '.join(places)}?" if places else f"it has {', '.join(map(str, node))}"
    raise InputError(f"--cfg-options {key}: {where} has no {leaf!r}, and nothing reads it; {remedy}")


def _known(node: Any, parents: list[str]) -> set[str] | None:
    """Return the keys that the reader of a dict knows; ``None`` where any key is allowed."""
    name = parents[-1] if parents else ""
    if name in _NAMES:
        return None
    if not parents:
        from mmengine.runner import Runner

        return set(inspect.signature(Runner.__init__).parameters) | _OF_RUNNERS
    if name in _LOADERS:
        from torch.utils.data import DataLoader

        return set(inspect.signature(DataLoader.__init__).parameters) | {"dataset", "num_batch_per_epoch"}
    if name == "randomness":
        from mmengine.runner import Runner

        return set(inspect.signature(Runner.set_randomness).parameters)
    kind = node.get("type") or _DEFAULT_TYPES.get(".".join(parents))
    if kind is None:
        return _FREE.get(name, set())
    kinds = (kind, "AmpOptimWrapper") if name == "optim_wrapper" else (kind,)  # which --amp puts there later
    found = [_arguments(one) for each in kinds for one in _classes_of(each)]
    if not found or None in found:  # the build says what is wrong with a type
        return None
    more = {"optimizer", "constructor", "paramwise_cfg"} if name == "optim_wrapper" else set()
    return {"type", "_delete_", "_scope_", "init_cfg", *more}.union(*(names for names in found if names))


def _classes_of(kind: Any) -> list[Any]:
    """Return the classes and functions that a ``type`` of a config can stand for."""
    if not isinstance(kind, str):
        return [kind]
    from mmengine import registry as root

    from .runtime import import_mmdet

    import_mmdet()
    from mmdet import registry as theirs

    kinds = [one for module in (theirs, root) for one in vars(module).values() if isinstance(one, root.Registry)]
    return [found for found in (registry.get(kind) for registry in kinds) if found is not None]


def _arguments(kind: Any) -> set[str] | None:
    """Return the names of the arguments of a class, also of those that it passes on; ``None`` where
    it takes any.
    """
    names: set[str] = set()
    for owner in kind.__mro__ if inspect.isclass(kind) else [kind]:
        init = vars(owner).get("__init__") if inspect.isclass(owner) else owner
        if init is None:
            continue
        if owner is object or not inspect.isfunction(init):
            return None
        parameters = inspect.signature(init).parameters.values()
        names |= {one.name for one in parameters if one.kind is not one.VAR_KEYWORD}
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            return names
    return names


def _paths(node: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted path of every key of a config."""
    parts: Any = node.items() if isinstance(node, (Mapping, Config)) else enumerate(node)
    for name, value in parts:
        here = f"{path}.{name}" if path else str(name)
        yield here
        if isinstance(value, (Mapping, list, tuple)):
            yield from _paths(value, here)
