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
    from .metadata import ModelCard, Output, check_form
    from .onnx import ExportReport, export_onnx
    from .runtime import Guess, OnnxModel, classify, open_image, summarize
    from .source import Source, SourceOptions, brings_weights, load_source
    from .verify import DEFAULT_BATCHES, OutputComparison, VerifyReport, compare, verify_onnx

_HOME = {
    "OutputComparison": "verify",
    "DEFAULT_BATCHES": "verify",
    "ExportReport": "onnx",
    "Guess": "runtime",
    "ModelCard": "metadata",
    "OnnxModel": "runtime",
    "Output": "metadata",
    "Source": "source",
    "SourceOptions": "source",
    "VerifyReport": "verify",
    "brings_weights": "source",
    "check_form": "metadata",
    "classify": "runtime",
    "compare": "verify",
    "export_onnx": "onnx",
    "load_source": "source",
    "open_image": "runtime",
    "summarize": "runtime",
    "verify_onnx": "verify",
}

__all__ = [
    "DEFAULT_BATCHES",
    "ExportReport",
    "Guess",
    "ModelCard",
    "OnnxModel",
    "Output",
    "OutputComparison",
    "Source",
    "SourceOptions",
    "VerifyReport",
    "brings_weights",
    "check_form",
    "classify",
    "compare",
    "export_onnx",
    "load_source",
    "open_image",
    "summarize",
    "verify_onnx",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
