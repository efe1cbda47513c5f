"""ONNX: writing a model, checking the file against the model, running it without torch.

Public names are loaded on first use. :class:`OnnxModel` and the modules that it needs import no
torch; the others do.

    from tinyvit.export import OnnxModel, export_onnx, verify_onnx

    export_onnx("tiny_vit_5m_224", "tiny_vit_5m.onnx", weights="tiny_vit_5m.safetensors")
    report = verify_onnx("tiny_vit_5m.onnx", weights="tiny_vit_5m.safetensors", sizes=[224, (256, 320)])
    logits, = OnnxModel("tiny_vit_5m.onnx")(batch)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyvit.core.lazy import lazy_names

if TYPE_CHECKING:
    from .metadata import ModelCard, Output
    from .onnx import ExportReport, export_onnx
    from .runtime import OnnxModel, classify, summarize
    from .source import Source, load_source
    from .verify import VerifyReport, verify_onnx

_HOME = {
    "ExportReport": "onnx",
    "ModelCard": "metadata",
    "OnnxModel": "runtime",
    "Output": "metadata",
    "Source": "source",
    "VerifyReport": "verify",
    "classify": "runtime",
    "export_onnx": "onnx",
    "load_source": "source",
    "summarize": "runtime",
    "verify_onnx": "verify",
}

__all__ = [
    "ExportReport",
    "ModelCard",
    "OnnxModel",
    "Output",
    "Source",
    "VerifyReport",
    "classify",
    "export_onnx",
    "load_source",
    "summarize",
    "verify_onnx",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
