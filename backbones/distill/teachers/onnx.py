"""Teachers in an ONNX file, run by onnxruntime."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinyvit.core.errors import InputError, check_file, require
from tinyvit.core.onnx_files import data_files

from .base import CODE_VERSION, Answers, Classifier, Program, files_sha256
from .spec import TeacherSettings

_FLOATS = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
#: Preprocessing settings in files of ``tinyvit export onnx`` -> whether they are plain text, not #:
#: JSON.
_CARD = {"mean": False, "std": False, "crop_pct": False, "crop_mode": True, "interpolation": True}


def onnx_classifier(spec: TeacherSettings) -> Classifier:
    """Return the classifier of an ONNX file: one batch of images in, logits out.

    Where there are several outputs, the one called ``logits`` counts.

    Images are ``(B, 3, H, W)`` floats or ``(B, H, W, 3)`` bytes. Floats are normalised as the
    file's own description says (``tinyvit export onnx`` writes one), else as the specification
    does. Fixed batch sizes are filled up.

    Raises:
        InputError: It is missing, not an ONNX model, of another form, or does not say how images
            are prepared.
        MissingExtraError: onnxruntime is not installed.
    """
    path = check_file(spec.name, "ONNX file", "the .onnx file itself")
    graph = _Graph(path)
    size = graph.fixed_size
    spec.require_size(size, path)
    card = graph.card
    own_norm = graph.takes_bytes or card.get("input_format") in ("unit", "uint8")
    config = {**card, "mean": (0.0,) * 3, "std": (1.0,) * 3} if own_norm else card if "mean" in card else None
    preprocess = spec.transform(config, size or spec.size or card.get("size"))
    if own_norm:
        preprocess = replace(preprocess, mean=(0.0,) * 3, std=(1.0,) * 3)
    answers = Answers(Program(graph.on, graph.fixed_batch), path.name)
    classes = answers.probe(preprocess.size)
    code = f"onnxruntime {importlib.metadata.version('onnxruntime')}, teachers {CODE_VERSION}"
    return Classifier(
        path.name,
        answers,
        preprocess,
        classes,
        files_sha256([path, *data_files(path)]),
        code,
        deployable=False,
        precisions=("fp32",),
        details=answers.details(),
    )


class _Graph:
    """An ONNX file, and the input of its graph."""

    def __init__(self, path: Path) -> None:
        self.path = path
        session = self._session("cpu")
        inputs, outputs = session.get_inputs(), [output.name for output in session.get_outputs()]
        if len(inputs) != 1:
            raise InputError(f"{path} has {len(inputs)} inputs; a teacher takes one batch of images")
        if "logits" not in outputs and len(outputs) > 1:
            raise InputError(f"{path} has the outputs {', '.join(outputs)} and none is called logits; name one logits")
        self.output = "logits" if "logits" in outputs else outputs[0]
        self.input, self.type, self.shape = inputs[0].name, inputs[0].type, list(inputs[0].shape)
        if (self.type not in _FLOATS and not self.takes_bytes) or len(self.shape) != 4:
            raise InputError(
                f"{path} takes {self.type} {self.shape}; a teacher takes floats (B, 3, H, W) or bytes (B, H, W, 3)"
            )
        self.card = _read_card(session.get_modelmeta().custom_metadata_map)

    @property
    def takes_bytes(self) -> bool:
        return self.type == "tensor(uint8)"

    @property
    def fixed_batch(self) -> int | None:
        return self.shape[0] if isinstance(self.shape[0], int) else None

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        height, width = self.shape[1:3] if self.takes_bytes else self.shape[2:4]
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None

    def _session(self, kind: str) -> Any:
        onnxruntime = require("onnxruntime", "export")
        provider = _PROVIDERS.get(kind)
        if provider not in onnxruntime.get_available_providers():
            known = ", ".join(onnxruntime.get_available_providers())
            raise InputError(f"this onnxruntime cannot run {self.path.name} on {kind}; it has {known}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only; they come as exceptions too
        try:
            return onnxruntime.InferenceSession(str(self.path), options, providers=[provider])
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            reason = (str(error).strip().splitlines() or ["?"])[0]
            raise InputError(f"{self.path} cannot be loaded as an ONNX model: {reason[:300]}") from error

    def on(self, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return a function that runs it on a device."""
        session = self._session(device.type)

        def run(x: torch.Tensor) -> torch.Tensor:
            batch = (x * 255).round().byte().permute(0, 2, 3, 1) if self.takes_bytes else x.to(_FLOATS[self.type])
            array = np.ascontiguousarray(batch.cpu().numpy())
            return torch.from_numpy(session.run([self.output], {self.input: array})[0]).to(device)

        return run


def _read_card(props: dict[str, str]) -> dict[str, Any]:
    """Return preprocessing and input form from a file of ``tinyvit export onnx``.

    Other files give an empty dictionary.
    """
    if not {"format_version", "input_format", "size", *_CARD} <= set(props):
        return {}
    card: dict[str, Any] = {key: props[key] if text else json.loads(props[key]) for key, text in _CARD.items()}
    return card | {"size": tuple(json.loads(props["size"])), "input_format": props["input_format"]}
