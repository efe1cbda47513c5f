"""Lists of images as tables: CSV, or Parquet through pyarrow.

Columns: ``file`` (text; the image's path below the folder of the list, ``/`` as separator) and,
where the classes are known, ``class_index`` (a whole number). Other columns are ignored. The order
of rows does not matter.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath

from ..errors import InputError, require

LIST_SUFFIXES = (".csv", ".parquet")


def read_files(path: Path) -> list[str]:
    """Return the column ``file``, sorted.

    Raises:
        InputError: The list cannot be read, has no such column or no row, names a file twice, or
            names one outside its folder.
    """
    files = _column(path, "file")
    if not files:
        raise InputError(f"{path} lists no image; give it a row per image")
    for file in files:
        parts = PurePosixPath(file).parts
        if not parts or file.startswith("/") or ".." in parts or "\\" in file or "\0" in file:
            raise InputError(f"{path} names {file!r}; a file is a path below {path.parent}, with / as separator")
    files.sort(key=lambda file: file.encode())
    for one, other in pairwise(files):
        if one == other:
            raise InputError(f"{path} names {one!r} twice; remove one of the rows")
    return files


def read_classes(path: Path) -> dict[str, int]:
    """Return the class index of each file.

    Raises:
        InputError: The list cannot be read, lacks a column, or a class index is not a whole number.
    """
    try:
        return dict(zip(_column(path, "file"), map(int, _column(path, "class_index")), strict=True))
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"labels file {path} needs the columns file and class_index (a whole number)") from error


def has_classes(path: Path) -> bool:
    """Return whether the list has a column ``class_index``."""
    return "class_index" in _columns(path)


def _columns(path: Path) -> Sequence[str]:
    try:
        if path.suffix.lower() == ".parquet":
            return require("pyarrow.parquet", "parquet").read_schema(path).names
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return next(csv.reader(stream), [])
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"labels file {path} does not exist; give a CSV with columns file and class_index") from error
    except OSError as error:
        raise InputError(f"labels file {path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # pyarrow has its own kinds
        raise InputError(f"{path} cannot be read as a list of images: {error}") from error


def _column(path: Path, name: str) -> list:
    if name not in _columns(path):
        what = "columns file and class_index (a whole number)" if name == "class_index" else "column file"
        raise InputError(f"list {path} needs the {what}, named in its first row; file holds the paths of the images")
    try:
        if path.suffix.lower() == ".parquet":
            table = require("pyarrow.parquet", "parquet").read_table(path, columns=[name])
            values = table.column(name).to_pylist()
        else:
            with path.open(newline="", encoding="utf-8-sig") as stream:
                values = [row[name] for row in csv.DictReader(stream)]
    except InputError:
        raise
    except Exception as error:  # pyarrow has its own kinds
        raise InputError(f"{path} cannot be read as a list of images: {error}") from error
    if any(value is None for value in values) or (name == "file" and not all(isinstance(v, str) for v in values)):
        kind = "text" if name == "file" else "a whole number"
        raise InputError(
            f"{path} has a row without {name}, or with one of a wrong kind; {name} must be {kind} in every row"
        )
    return values
