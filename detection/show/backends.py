"""Where the curves of a training go beside its own log: mmengine's visualiser backends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import VISBACKENDS

from tinyvit.core.errors import InputError, unknown_name

_SUFFIX = "VisBackend"


def add_vis_backends(cfg: Config, names: Sequence[str]) -> None:
    """Add backends to the visualiser of a config, in place.

    Args:
        cfg: A detector's config.
        names: mmengine's backends without their ending and in small letters: ``tensorboard``,
            ``wandb``, ``mlflow``, ``clearml``, ``neptune``, ``dvclive``, ``aim``.

    Raises:
        InputError: mmengine has no such backend, or the config has no visualiser.
    """
    import mmengine.visualization  # noqa: F401  (registers the backends)

    known = {name.removesuffix(_SUFFIX).lower(): name for name in VISBACKENDS.module_dict}
    known.pop("local", None)
    for name in names:
        if name not in known:
            raise unknown_name("--vis-backend", name, known)
        if not cfg.get("visualizer"):
            raise InputError("--vis-backend needs a visualizer in the config; inherit mmdet::_base_/default_runtime.py")
        backends: list[Any] = cfg.visualizer.setdefault("vis_backends", [])
        if known[name] not in [backend["type"] for backend in backends]:
            backends.append({"type": known[name]})
