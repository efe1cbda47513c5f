"""TinyViT and DeiT in MMDetection, and a detector trained, evaluated and used from a COCO-layout
folder.

Importing this package provides ``mmcv._ext`` where mmcv was installed without compiled operators
(:mod:`.compat.mmcv_ext`). It also registers ``tinyvit.TinyViT``, ``tinyvit.DeiT``,
``tinyvit.SimpleFeaturePyramid``, ``tinyvit.LoadImage``, ``tinyvit.CocoMetric`` and
``tinyvit.LayerDecayOptimWrapperConstructor``. A config needs
``custom_imports=dict(imports=['tinyvit.detection'])``. mmdet itself is imported when one of the
functions is called.

The functions, in the order of a run::

    from tinyvit.detection import evaluate, load_config, predict, set_schedule, train

    cfg = load_config("retinanet_tiny_vit_5m_fpn_1x_coco", data_root="my_coco_folder", img_size=448,
                      overrides={"optim_wrapper.optimizer.lr": 2e-4})
    set_schedule(cfg, epochs=12, batch_size=4)
    run = train(cfg, "runs/a", weights="tiny_vit_5m.pth")      # checkpoint, losses, metrics, ...
    metrics = evaluate(cfg, run["checkpoint"], "runs/a/test")  # {"bbox_mAP": 0.31, ...}
    found = predict(cfg, run["checkpoint"], ["street.jpg"], "runs/a/pictures")

A trained detector needs no config: ``Detector("runs/a/epoch_12.pth").predict("street.jpg")``.

They raise :class:`tinyvit.core.errors.InputError` for bad input, with one sentence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyvit.core.lazy import lazy_names

from .compat.mmcv_ext import install as _install
from .compat.mmcv_ext import mmcv_ops_in_use
from .compat.mmcv_missing import MissingOperatorError

# Before anything of mmcv.ops or mmdet.models is imported, by us or by a user of this package.
_install()

from .backbones import DeiT, SimpleFeaturePyramid, TinyViT  # noqa: E402
from .compat.mmengine_ext import AmpOptimWrapper, CompileBackboneHook  # noqa: E402
from .compat.mmengine_ext import install as _mend_mmengine  # noqa: E402
from .engine.optim import LayerDecayOptimWrapperConstructor  # noqa: E402
from .engine.randomness import SeedByPositionHook  # noqa: E402
from .runtime import StopOnBadLossHook  # noqa: E402
from .wiring import check_wiring  # noqa: E402
from .wiring import install as _check_every_detector  # noqa: E402

_mend_mmengine()
_check_every_detector()

if TYPE_CHECKING:
    from .config import (
        anchors_of,
        input_size,
        list_configs,
        load_config,
        make_palette,
        scored_files,
        set_classes,
        trained_size,
    )
    from .data.anchors import Anchors
    from .data.annotations import load_annotations
    from .data.check import DataReport, Finding, check_data
    from .data.classes import check_same_classes
    from .data.layouts import CocoSplit, find_split, missing_split
    from .data.mend import mend_data
    from .detector import Detections, Detector, detector_config, size_of_test
    from .engine.run import evaluate, train
    from .engine.schedule import set_schedule
    from .inference import Predictor
    from .overrides import apply_overrides
    from .predicting import find_images, predict
    from .runtime import import_mmdet, read_detector
    from .show.backends import add_vis_backends
    from .show.contact_sheet import draw_sheet
    from .show.drawing import draw_detections

_HOME = {
    "Anchors": "data.anchors",
    "CocoSplit": "data.layouts",
    "DataReport": "data.check",
    "Detections": "detector",
    "Detector": "detector",
    "Finding": "data.check",
    "Predictor": "inference",
    "add_vis_backends": "show.backends",
    "anchors_of": "config",
    "apply_overrides": "overrides",
    "check_data": "data.check",
    "check_same_classes": "data.classes",
    "detector_config": "detector",
    "draw_detections": "show.drawing",
    "draw_sheet": "show.contact_sheet",
    "evaluate": "engine.run",
    "find_images": "predicting",
    "find_split": "data.layouts",
    "import_mmdet": "runtime",
    "input_size": "config",
    "list_configs": "config",
    "load_annotations": "data.annotations",
    "load_config": "config",
    "make_palette": "config",
    "mend_data": "data.mend",
    "missing_split": "data.layouts",
    "predict": "predicting",
    "read_detector": "runtime",
    "scored_files": "config",
    "set_classes": "config",
    "set_schedule": "engine.schedule",
    "size_of_test": "detector",
    "train": "engine.run",
    "trained_size": "config",
}

__all__ = [
    "AmpOptimWrapper",
    "Anchors",
    "CocoSplit",
    "CompileBackboneHook",
    "DataReport",
    "DeiT",
    "Detections",
    "Detector",
    "Finding",
    "LayerDecayOptimWrapperConstructor",
    "MissingOperatorError",
    "Predictor",
    "SeedByPositionHook",
    "SimpleFeaturePyramid",
    "StopOnBadLossHook",
    "TinyViT",
    "add_vis_backends",
    "anchors_of",
    "apply_overrides",
    "check_data",
    "check_same_classes",
    "check_wiring",
    "detector_config",
    "draw_detections",
    "draw_sheet",
    "evaluate",
    "find_images",
    "find_split",
    "import_mmdet",
    "input_size",
    "list_configs",
    "load_annotations",
    "load_config",
    "make_palette",
    "mend_data",
    "missing_split",
    "mmcv_ops_in_use",
    "predict",
    "read_detector",
    "scored_files",
    "set_classes",
    "set_schedule",
    "size_of_test",
    "train",
    "trained_size",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
