"""The start weights of a student, from a checkpoint of any size and with any classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from tinyvit.core.errors import InputError, check_file

from ...weights import Choice, LoadReport, load_weights, open_checkpoint, read_num_classes

if TYPE_CHECKING:
    from typing_extensions import Unpack


def read_class_map(path: str | Path) -> list[int]:
    """Return the content of a class-index file.

    It has one line per class of the student, with the class of the checkpoint, or -1.

    The official ``imagenet_1kto22k.txt`` is such a file, with 1000 lines and one -1.

    Raises:
        InputError: The file is missing, or a line is not a whole number from -1 on.
    """
    path = check_file(path, "class-index file", "the text file itself")
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        raise InputError(
            f"class-index file {path} cannot be read: it is not a text file; give one with a number per line"
        ) from error
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            index = int(line)
        except ValueError:
            index = -2
        if index < -1:
            raise InputError(
                f"{path}, entry {number}: {line!r} is not a class index; write a whole number, or -1 for none"
            )
        found.append(index)
    if not any(index >= 0 for index in found):
        raise InputError(f"class-index file {path} names no class; write one class index per line")
    return found


def load_initial(
    student: nn.Module, init: str | Path, class_map: str | Path | None, classes: int, **choice: Unpack[Choice]
) -> str:
    """Load a checkpoint into a student, and return a sentence about it.

    Attention biases and position embeddings are resized to the student's input. A head for other
    classes is left out, unless ``class_map`` says which rows to take. A class that the map marks
    with -1 gets the mean of the taken rows, as in the official ``load_pretrained``. The official
    evaluation of a 22k head (``RemapLayer``) gives such a class the logit 0 instead.

    Args:
        student: The model.
        init: The checkpoint.
        class_map: A class-index file, or ``None``.
        classes: The classes of the student.
        **choice: ``weights_key``, ``prefix`` and ``partial``, as for ``load_weights``.

    Returns:
        A sentence about the loaded weights.

    Raises:
        InputError: The checkpoint or the class-index file does not fit the student.
    """
    mapping = None if class_map is None else read_class_map(class_map)
    if mapping is not None and len(mapping) != classes:
        raise InputError(
            f"class-index file {class_map} has {len(mapping)} lines, and the student {classes} "
            f"classes; write one line per class of the student, or set num_classes={len(mapping)}"
        )
    checkpoint = open_checkpoint(init)
    theirs = read_num_classes(checkpoint, student, choice.get("weights_key"), choice.get("prefix"))
    if mapping is not None and theirs is not None and max(mapping) >= theirs:
        line = mapping.index(max(mapping)) + 1
        raise InputError(
            f"{class_map}, line {line}: class {max(mapping)} is not among the {theirs} classes of {init}; give the "
            "file for these classes"
        )
    report = load_weights(student, checkpoint, class_map=mapping, **choice)
    return f"{init}: {report}{_head(report, mapping, theirs, classes)}"


def _head(report: LoadReport, mapping: list[int] | None, theirs: int | None, classes: int) -> str:
    if mapping is not None:
        missing = [index for index, source in enumerate(mapping) if source < 0]
        said = f"; head: {classes - len(missing)} of {classes} classes taken from its {theirs}"
        if missing:
            which = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
            said += f", {len(missing)} that it lacks ({which}) got the mean of their rows"
        return said
    if theirs is not None and any("classes" in reason for reason in report.skipped.values()):
        return f"; head: new, its own has {theirs} classes and the student {classes}"
    if theirs is None:
        return "; head: new, the file has none"
    return ""
