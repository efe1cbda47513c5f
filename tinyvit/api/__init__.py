"""One function per command, for use from Python: ``tinyvit.label(...)`` and the others; and
``tinyvit.Detector``, a trained detector.

Each function has the names and the defaults of the options of its command, and returns the result
as an object.
"""

#: Public name of ``tinyvit`` -> the module that defines it.
HOME = {
    "Detector": "detection.detector",
    "bench": "api.speed",
    "detect_check": "api.detection",
    "detect_convert": "api.detection",
    "detect_predict": "api.detection",
    "detect_test": "api.detection",
    "detect_train": "api.detection",
    "evaluate": "api.training",
    "export_onnx": "api.deployment",
    "finetune": "api.training",
    "label": "api.labels",
    "linear_probe": "api.probing",
    "predict_onnx": "api.deployment",
    "pretrain": "api.training",
    "verify_onnx": "api.deployment",
}
