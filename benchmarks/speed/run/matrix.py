"""The matrix: from lists of engines, precisions and sizes to the subjects that can run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from tinyvit.core.errors import InputError

from ..results.subjects import Subject, size_text
from ..worker.engines import require_package

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ....backbones import Choice


@dataclass(frozen=True)
class Matrix:
    """The subjects of a measurement.

    Args:
        cells: Resolved subjects in the order of the lists, models outermost. A label names the
            model and every setting with more than one value.
        left_out: Requested subjects that cannot run, each with the reason.
    """

    cells: list[Subject] = field(default_factory=list)
    left_out: list[tuple[Subject, str]] = field(default_factory=list)

    def reasons(self) -> dict[str, int]:
        """Return the number of subjects left out per reason, in the order of their first one."""
        counts: dict[str, int] = {}
        for _, reason in self.left_out:
            counts[reason] = counts.get(reason, 0) + 1
        return counts


def plan_cells(
    models: Sequence[str],
    engines: Sequence[str] = ("auto",),
    precisions: Sequence[str] = ("fp32",),
    threads: Sequence[int | None] = (None,),
    batch_sizes: Sequence[int] = (1,),
    sizes: Sequence[int | tuple[int, int] | None] = (None,),
    allocators: Sequence[str] = ("tuned",),
    device: str = "cpu",
    weights: str | None = None,
    **choice: Unpack[Choice],
) -> Matrix:
    """Return every combination of the lists, once.

    Args:
        models: Values of ``Subject.model``.
        engines: Values of ``Subject.engine``.
        precisions: Values of ``Subject.precision``.
        threads: Processor threads; ``None`` is all that this process may use.
        batch_sizes: Images in one forward pass.
        sizes: Input height and width; ``None`` is the model's own.
        allocators: ``tuned``, ``default``.
        device: The device of all subjects.
        weights: A checkpoint for all subjects.
        **choice: ``weights_key``, ``prefix`` and ``partial``, as for ``load_weights``.

    Raises:
        InputError: A list is empty, a name is unknown, a number is below 1, an ONNX file does not
            exist, or no subject can run.
        MissingExtraError: The package of an engine is not installed.
    """
    axes: dict[str, Sequence[Any]] = {
        "model": models,
        "engine": engines,
        "precision": precisions,
        "threads": threads,
        "batch_size": batch_sizes,
        "size": sizes,
        "allocator": allocators,
    }
    empty = [name.replace("_", " ") for name, values in axes.items() if not values]
    if empty:
        raise InputError(f"there is nothing to measure: give at least one {empty[0]}")
    varied = [name for name, values in axes.items() if name != "model" and len(set(values)) > 1]
    matrix, seen = Matrix(), set()
    for subject in _combinations(axes, {"device": device, "weights": weights, **choice}):
        reason = subject.obstacle()
        if reason is not None:
            if (subject, reason) not in matrix.left_out:
                matrix.left_out.append((subject, reason))
            continue
        cell = subject.resolved()
        # "auto" and an engine by name, or all threads and their number, can be the same work.
        if cell not in seen:
            seen.add(cell)
            matrix.cells.append(replace(cell, label=_label(cell, varied)))
    if not matrix.cells:
        raise InputError(f"no requested subject can run: {'; '.join(matrix.reasons())}")
    for engine in dict.fromkeys(cell.engine for cell in matrix.cells):
        require_package(engine)
    return matrix


def _combinations(axes: dict[str, Sequence[Any]], shared: dict[str, Any]) -> Iterator[Subject]:
    for values in product(*axes.values()):
        yield Subject(**shared, **dict(zip(axes, values, strict=True)))


def _label(cell: Subject, varied: Sequence[str]) -> str:
    """Return the model's name with the settings that vary."""
    texts = {
        "engine": cell.engine,
        "precision": cell.precision,
        "threads": f"t{cell.threads}",
        "batch_size": f"b{cell.batch_size}",
        "size": f"{size_text(cell.size)}px" if cell.size else "native size",
        "allocator": f"{cell.allocator} allocator",
    }
    return " ".join([cell.label or cell.model, *(texts[name] for name in varied)])
