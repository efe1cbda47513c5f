"""Teachers in an ONNX file, run by onnxruntime."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinyvit.core.errors import InputError, check_file, require
from tinyvit.core.images.layout import find_layout
from tinyvit.core.onnx_files import data_files

from .base import CODE_VERSION, Answers, Classifier, Program, files_sha256
from .spec import TeacherSettings

_FLOATS = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
#: Preprocessing settings in files of ``tinyvit export onnx`` -> whether they are plain text, not #:
#: JSON.
_CARD = {"mean": False, "std": False, "crop_pct": False, "crop_mode": True, "interpolation": True}


def onnx_classifier(spec: TeacherSettings) -> Classifier:
    """Return the classifier of an ONNX file: one batch of images in, logits or probabilities out.

    Images are floats or bytes, ``(B, 3, H, W)`` or ``(B, H, W, 3)``. Floats are normalised as the
    file's own description says (``tinyvit export onnx`` writes one), else as the specification
    does. Fixed batch sizes are filled up.

    The output is the one that the specification names, else the only one, else that called
    ``logits``. It holds one number per class: ``(B, C)``, ``(B, C, 1, 1)``, ``(B, 1, C)`` and so
    on.

    Raises:
        InputError: It is missing, not an ONNX model, of another form, or does not say how images
            are prepared.
        MissingExtraError: onnxruntime is not installed.
    """
    path = check_file(spec.name, "ONNX file", "the .onnx file itself")
    graph = _Graph(path, spec.output, fills_in=spec.fills_in)
    spec.require_size(graph.layout.size, path)
    card = graph.card
    own_norm = graph.takes_bytes or card.get("input_format") in ("unit", "uint8")
    if own_norm and not spec.fills_in and (spec.mean, spec.std) != (None, None):
        raise InputError(f"{path} normalises images itself; leave --teacher-mean and --teacher-std out")
    config = {**card, "mean": (0.0,) * 3, "std": (1.0,) * 3} if own_norm else card if "mean" in card else None
    preprocess = spec.transform(config, graph.layout.size or spec.size or card.get("size"))
    if own_norm:
        preprocess = replace(preprocess, mean=(0.0,) * 3, std=(1.0,) * 3)
    answers = Answers(Program(graph.on, graph.layout.batch), path.name)
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
        details=answers.details() | ({"output": graph.output} if graph.is_chosen else {}),
    )


class _Graph:
    """An ONNX file, with the input and the chosen output of its graph."""

    def __init__(self, path: Path, output: str | None, fills_in: bool) -> None:
        self.path = path
        session = self._session("cpu")
        inputs = session.get_inputs()
        if len(inputs) != 1:
            raise InputError(f"{path} has {len(inputs)} inputs; a teacher takes one batch of images")
        self.input, self.type, shape = inputs[0].name, inputs[0].type, list(inputs[0].shape)
        properties: dict[str, str] = session.get_modelmeta().custom_metadata_map
        self.card = _read_card(properties, path)
        said = properties.get("layout", "") if self.card else ""
        layout = find_layout(shape, is_bytes=self.takes_bytes, said=said)
        if self.type not in (*_FLOATS, "tensor(uint8)") or layout is None:
            raise InputError(
                f"{path} takes {self.type} {shape}; a teacher takes floats or bytes, (B, 3, H, W) or (B, H, W, 3)"
            )
        if layout.channels != 3:
            raise InputError(
                f"{path} takes images with {layout.channels} channel{'' if layout.channels == 1 else 's'} {shape}; a "
                "teacher takes 3, red, green and blue: export the model with 3 channels"
            )
        self.layout = layout
        outputs = session.get_outputs()
        if fills_in and output not in [one.name for one in outputs]:
            output = None  # it is another member's of the ensemble
        self.output, self.is_chosen = _choose_output(outputs, output, path), output is not None

    @property
    def takes_bytes(self) -> bool:
        return self.type == "tensor(uint8)"

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
            batch = (x * 255).round().byte() if self.takes_bytes else x.to(_FLOATS[self.type])
            batch = batch.permute(0, 2, 3, 1) if self.layout.name == "NHWC" else batch
            array = np.ascontiguousarray(batch.cpu().numpy())
            answer = torch.from_numpy(session.run([self.output], {self.input: array})[0]).to(device)
            return answer[None] if answer.ndim == 1 and len(x) == 1 else answer

        return run


def _choose_output(outputs: Sequence[Any], wanted: str | None, path: Path) -> str:
    """Return the name of the output to read: the wanted one, the only one, or ``logits``.

    Raises:
        InputError: There is no such output, there are several, or it does not hold floats.
    """
    found = {output.name: output for output in outputs}
    shapes = ", ".join(f"{output.name} {output.type} {output.shape}" for output in outputs)
    if wanted is not None and wanted not in found:
        raise InputError(f"{path} has no output {wanted!r}; give one of these as --teacher-output: {shapes}")
    name = wanted or (outputs[0].name if len(outputs) == 1 else "logits")
    if name not in found:
        raise InputError(f"{path} has several outputs; choose one with --teacher-output: {shapes}")
    if found[name].type not in _FLOATS:
        raise InputError(
            f"the output {name} of {path} is {found[name].type} and not logits or probabilities; choose another with "
            f"--teacher-output: {shapes}"
        )
    return name


def _read_card(props: dict[str, str], path: Path) -> dict[str, Any]:
    """Return preprocessing and input form from a file of ``tinyvit export onnx``.

    Other files give an empty dictionary.

    Raises:
        InputError: A value is not the JSON that our export writes.
    """
    if not {"format_version", "input_format", "size", *_CARD} <= set(props):
        return {}
    try:
        card: dict[str, Any] = {key: props[key] if text else json.loads(props[key]) for key, text in _CARD.items()}
        return card | {"size": tuple(json.loads(props["size"])), "input_format": props["input_format"]}
    except (TypeError, ValueError) as error:
        raise InputError(f"the metadata of {path} is damaged: {error}; export it again") from error
