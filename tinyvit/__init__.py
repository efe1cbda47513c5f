"""tinyvit: from a large teacher to a deployed small vision transformer, in one tool.

The rooms of the house are sub-packages: :mod:`tinyvit.backbones`, :mod:`tinyvit.detection`,
:mod:`tinyvit.benchmarks` and :mod:`tinyvit.export`. Importing this package imports none of them.

Each command of the command line is also one function, loaded on first use::

    import tinyvit

    tinyvit.label("photos", "store", "efficientnet_lite2", views=2)
    run = tinyvit.pretrain("tiny_vit_5m_distill", data="photos", labels="store", epochs=1)
    tinyvit.export_onnx("tiny_vit_5m_224", weights=run.student, out="student.onnx")
    boxes = tinyvit.Detector("runs/a/epoch_12.pth").predict("street.jpg").boxes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .api import HOME
from .core.lazy import lazy_names

if TYPE_CHECKING:
    from tinyvit.detection import Detector

    from .api.deployment import export_onnx, predict_onnx, verify_onnx
    from .api.detection import detect_check, detect_convert, detect_predict, detect_test, detect_train
    from .api.labels import label
    from .api.probing import linear_probe
    from .api.speed import bench
    from .api.training import evaluate, finetune, pretrain

__version__ = "0.1.0"

__all__ = [
    "Detector",
    "__version__",
    "bench",
    "detect_check",
    "detect_convert",
    "detect_predict",
    "detect_test",
    "detect_train",
    "evaluate",
    "export_onnx",
    "finetune",
    "label",
    "linear_probe",
    "predict_onnx",
    "pretrain",
    "verify_onnx",
]

__getattr__, __dir__ = lazy_names(__name__, HOME)
