"""Files that belong to an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import require


def data_files(path: str | Path) -> list[Path]:
    """Return the files beside an ONNX file that hold tensors of its graph, sorted by name.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    onnx: Any = require("onnx", "export")
    proto = onnx.load(str(path), load_external_data=False)
    names = {
        entry.value
        for tensor in onnx.external_data_helper._get_all_tensors(proto)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [Path(path).parent / name for name in sorted(names)]
