"""The metadata of an exported file: the key-value pairs in its ``metadata_props``.

One file is enough to run a model: it holds the names of the classes, the preprocessing, and the
form of inputs and outputs. The module needs neither torch nor onnx.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from tinyvit.core.errors import InputError, unknown_name
from tinyvit.core.images.preprocess import Preprocess
from tinyvit.core.results import plain

FORMAT_VERSION = 1

#: Input format of the graph -> (layout, element type, range). ``normalized`` is the format of the
#: module itself.
INPUT_FORMATS = {
    "normalized": ("NCHW", "float32", "(x / 255 - mean) / std"),
    "unit": ("NCHW", "float32", "0..1"),
    "uint8": ("NHWC", "uint8", "0..255"),
}

#: Versions of the ONNX operators that can be written.
OPSETS = range(18, 25)


@dataclass(frozen=True)
class Output:
    """One output of the graph.

    Args:
        name: ``logits``, or ``strideN`` for a feature map.
        channels: Length of its second dimension.
        stride: Input pixels per position of a feature map; 0 for logits.
    """

    name: str
    channels: int
    stride: int = 0


@dataclass(frozen=True)
class ModelCard:
    """The metadata of an exported file.

    Args:
        model: Name of the model, as the command line takes it.
        task: ``classifier`` or ``features``.
        input_format: A key of :data:`INPUT_FORMATS`.
        preprocess: Preparation of an image.
        outputs: The outputs, in the graph's order.
        classes: Name of each class; empty when the names are not known.
        weights: File name of the weights, ``random (seed N)``, or ``module`` for a module that was
            given as an object.
        weights_sha256: SHA-256 of that file; empty without a file.
        state_sha256: SHA-256 of the parameters and buffers in the model.
        arguments: The arguments of :func:`tinyvit.export.load_source` that build the model again,
            without weights.
        opset: Version of the ONNX operators.
        tinyvit_version: Version of tinyvit that wrote the file.
        torch_version: Version of torch that traced the model.
        format_version: Version of these fields.
    """

    model: str
    task: str
    input_format: str
    preprocess: Preprocess
    outputs: tuple[Output, ...]
    weights: str
    weights_sha256: str
    state_sha256: str
    opset: int
    classes: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)
    tinyvit_version: str = ""
    torch_version: str = ""
    format_version: int = FORMAT_VERSION

    def to_props(self) -> dict[str, str]:
        """Return the card as ``metadata_props``: strings, and JSON for all other values.

        Preprocessing has one key per setting.
        """
        layout, dtype, value_range = INPUT_FORMATS[self.input_format]
        document: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        document |= {"layout": layout, "input_dtype": dtype, "input_range": value_range, **self.preprocess.to_dict()}
        document["outputs"] = [vars(output) for output in self.outputs]
        del document["preprocess"]
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in document.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the card as plain JSON values."""
        return plain(self)

    @classmethod
    def from_props(cls, props: Mapping[str, str], origin: str) -> ModelCard:
        """Return the card that :meth:`to_props` wrote.

        Args:
            props: The file's ``metadata_props``.
            origin: The file, for messages.

        Raises:
            InputError: The file was written by something else, or by a later version.
        """
        if "format_version" not in props or "model" not in props:
            raise InputError(f"{origin} has no metadata of tinyvit; give a file of `tinyvit export onnx`")
        if props["format_version"] != str(FORMAT_VERSION):
            raise InputError(
                f"{origin} has metadata of version {props['format_version']}, but this tinyvit reads version "
                f"{FORMAT_VERSION}; run the tinyvit that wrote it"
            )
        try:
            values = {item.name: _read(props, item.name) for item in fields(cls) if item.name != "preprocess"}
            values["preprocess"] = Preprocess(**{item.name: _read(props, item.name) for item in fields(Preprocess)})
            values["outputs"] = tuple(Output(**output) for output in values["outputs"])
            card = cls(**values)
            _check_card(card)
            return card
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the metadata of {origin} is damaged: {type(error).__name__} {error}") from error


def _check_card(card: ModelCard) -> None:
    if card.input_format not in INPUT_FORMATS:
        raise unknown_name("input format", card.input_format, INPUT_FORMATS)
    if not isinstance(card.classes, tuple) or not all(isinstance(name, str) for name in card.classes):
        raise ValueError("classes must be names")
    if not isinstance(card.arguments, dict):
        raise ValueError("arguments must be an object")


#: Fields that are text as they are; all others are JSON.
_TEXT = {"model", "task", "input_format", "weights", "weights_sha256", "state_sha256"}
_TEXT |= {"tinyvit_version", "torch_version", "crop_mode", "interpolation"}


def _read(props: Mapping[str, str], key: str) -> Any:
    value = props[key] if key in _TEXT else json.loads(props[key])
    return tuple(value) if isinstance(value, list) and key != "outputs" else value


def check_form(input_format: str, opset: int) -> None:
    """Reject an input format or opset that cannot be written, before a model is built for it.

    Raises:
        InputError: An unknown input format, or an opset outside :data:`OPSETS`.
    """
    if opset not in OPSETS:
        raise InputError(f"opset {opset} is not supported; use {OPSETS[0]} to {OPSETS[-1]}")
    if input_format not in INPUT_FORMATS:
        raise unknown_name("input format", input_format, INPUT_FORMATS)


def check_classes(classes: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """Return the names of the classes, as many as the model has.

    Raises:
        InputError: Their number is not the model's.
    """
    if classes is None:
        return ()
    if len(classes) != num_classes:
        raise InputError(
            f"{len(classes)} class names were given, but the model has {num_classes} classes; give one name per class"
        )
    return tuple(str(name) for name in classes)
