"""The config that a training keeps in its checkpoint, read as data: nothing of it runs."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from tinyvit.core.errors import InputError

from ..backbones import Checkpoint
from .config import input_size
from .runtime import import_mmdet

#: Packages whose registered modules a kept config may name, with their registries.
_REGISTRIES = {
    "": ("mmengine.registry", "mmdet.registry"),
    "mmengine": ("mmengine.registry",),
    "mmcv": ("mmengine.registry",),
    "mmdet": ("mmdet.registry",),
    "mmpretrain": ("mmpretrain.registry",),
    "tinyvit": ("tinyvit.detection.registry",),
}
_KINDS = ("MODELS", "TASK_UTILS", "TRANSFORMS")
#: Where weights are loaded from; the checkpoint has them all.
_WEIGHTS = ("init_cfg", "pretrained", "weights")
_OTHER_FILES = ("checkpoint", "teacher_ckpt", "teacher_config")
#: mmcv evaluates some texts of a config as Python; a text of these characters calls nothing.
_WORD = re.compile(r"[\w. -]*", re.ASCII)


def stored_config(checkpoint: Checkpoint) -> Config | None:
    """Return the config that a detector was trained with; ``None`` where the checkpoint has none.

    mmengine writes it as Python. Only literals and ``dict(...)`` are read. Kept are the model,
    without origins of weights, and the steps that prepare a test image.

    Args:
        checkpoint: A detector's, of :func:`tinyvit.detection.read_detector`.

    Raises:
        InputError: The config is not plain data, or names what only a config of the user's may run:
            modules of other packages, files, expressions.
    """
    meta = checkpoint.content.get("meta")
    text = meta.get("cfg") if isinstance(meta, Mapping) else None
    if not isinstance(text, str) or not text.strip():
        return None
    try:
        found = {name: _value(node) for name, node in _assignments(text)}
        model, steps = _without_weights(found["model"]), _test_steps(found)
    except (SyntaxError, ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise _refused(checkpoint, f"it cannot be read as data ({reason})") from error
    if not isinstance(model, dict):
        raise _refused(checkpoint, "its 'model' is not a dict")
    import_mmdet()
    for reason in _unsafe({"model": model, "pipeline": steps}, ""):
        raise _refused(checkpoint, reason)
    dataset = {"type": "CocoDataset", "ann_file": "", "pipeline": steps}
    return Config({"default_scope": "mmdet", "model": model, "test_dataloader": {"dataset": dataset}})


def _refused(checkpoint: Checkpoint, reason: str) -> InputError:
    return InputError(f"the config in {checkpoint.origin} is not used: {reason}; give the config of the training")


def _assignments(text: str) -> Iterator[tuple[str, ast.expr]]:
    for line in ast.parse(text).body:
        if not isinstance(line, ast.Assign) or len(line.targets) != 1 or not isinstance(line.targets[0], ast.Name):
            raise ValueError(f"line {line.lineno} is not NAME = VALUE")
        yield line.targets[0].id, line.value


def _value(node: ast.expr) -> Any:
    """Return the value of a literal, in which ``dict(a=1)`` is one, too."""
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id != "dict" or node.args:
            raise ValueError(f"line {node.lineno} calls something else than dict")
        return {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {ast.literal_eval(key): _value(value) for key, value in pairs if key is not None}
    if isinstance(node, (ast.List, ast.Tuple)):
        parts = [_value(part) for part in node.elts]
        return parts if isinstance(node, ast.List) else tuple(parts)
    return ast.literal_eval(node)


def _test_steps(found: Mapping[str, Any]) -> list[Any]:
    """Return the steps that prepare a test image, from the test data or else the validation's."""
    loader = found.get("test_dataloader") or found.get("val_dataloader")
    if loader:
        dataset = loader["dataset"]
        while "pipeline" not in dataset and "dataset" in dataset:
            dataset = dataset["dataset"]
        steps = dataset["pipeline"]
    else:  # a training without validation data; --img-size changed the loader of the training alone
        size = input_size(found)
        steps = [
            step | {"scale": size} if size and step["type"] == "Resize" else step for step in found["test_pipeline"]
        ]
    return [step for step in steps if not str(step["type"]).endswith("LoadAnnotations")]


def _without_weights(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_weights(value) for key, value in node.items() if key not in _WEIGHTS}
    if isinstance(node, (list, tuple)):
        return type(node)(_without_weights(part) for part in node)
    return node


def _unsafe(node: Any, path: str) -> Iterator[str]:
    """Yield what a config of unknown origin must not hold, as a reason."""
    if isinstance(node, dict):
        for key, value in node.items():
            where = f"{path}.{key}".lstrip(".")
            if key in _OTHER_FILES:
                yield f"{where} names a file"
            elif key == "type" and not (isinstance(value, str) and _is_known(value)):
                yield f"{where} is {value!r:.60}, which is not registered in MMDetection or here"
            elif key == "_scope_" and value not in _REGISTRIES:
                yield f"{where} is {value!r:.60}, which is not a package of MMDetection"
            else:
                yield from _unsafe(value, where)
    elif isinstance(node, (list, tuple)):
        for at, part in enumerate(node):
            yield from _unsafe(part, f"{path}.{at}")
    elif isinstance(node, str) and not _WORD.fullmatch(node):
        yield f"{path} is {node!r:.60}, which is not a plain word"


def _is_known(kind: str) -> bool:
    """Return whether a type is registered, or an operator of mmcv (``nms``, ``RoIAlign``).

    mmengine itself would import any function of any package by its name.
    """
    import mmcv.ops

    scope, _, name = kind.rpartition(".")
    if not scope and name in mmcv.ops.__all__:
        return True
    for module in _REGISTRIES.get(scope, ()):
        try:
            registries = vars(importlib.import_module(module))
        except ModuleNotFoundError:
            continue
        for registry in (registries[kind] for kind in _KINDS if kind in registries):
            registry.import_from_location()
            if name in registry.module_dict:
                return True
    return False
