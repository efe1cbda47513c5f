"""The registries of this room: scope ``tinyvit``, children of mmengine's, so that
``type='tinyvit.NAME'`` resolves.

``locations`` are imported on the first look-up, so that ``import tinyvit.detection`` does not
import mmdet.
"""

from __future__ import annotations

from mmengine import registry as root
from mmengine.registry import Registry

SCOPE = "tinyvit"


def _child_of(parent: Registry, locations: list[str]) -> Registry:
    """Return our registry below ``parent``; mmengine allows one per scope, which another room may
    have made already.
    """
    existing = parent.children.get(SCOPE)
    return existing or Registry(parent.name, parent=parent, scope=SCOPE, locations=locations)


MODELS = _child_of(root.MODELS, [])
OPTIM_WRAPPER_CONSTRUCTORS = _child_of(root.OPTIM_WRAPPER_CONSTRUCTORS, [])
OPTIM_WRAPPERS = _child_of(root.OPTIM_WRAPPERS, [])
HOOKS = _child_of(root.HOOKS, [])
FUNCTIONS = _child_of(root.FUNCTIONS, ["tinyvit.detection.engine.randomness"])
TRANSFORMS = _child_of(root.TRANSFORMS, ["tinyvit.detection.inference"])
DATASETS = _child_of(root.DATASETS, ["tinyvit.detection.data.dataset"])
METRICS = _child_of(root.METRICS, ["tinyvit.detection.metrics"])
