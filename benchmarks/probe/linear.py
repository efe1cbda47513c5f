"""The linear probe: multinomial logistic regression on frozen features.

The objective is scikit-learn's, divided by the number of rows so that step sizes do not depend on
it:

    F(W, b) = mean_i cross_entropy(z_i W + b, y_i) + ||W||^2 / (2 C n)

``z`` is the feature row after normalisation, centring and one scaling to mean squared length 1,
which makes one grid of ``C`` fit every backbone. Neither step changes what can be fitted: the
intercept is free, and the scale is a change of ``C``.

Letters: n rows, d features, k classes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from annotated_types import Ge, MinLen
from torch.nn import functional as F

from tinyvit.core.errors import InputError
from tinyvit.core.ranking import best_classes
from tinyvit.core.results import plain
from tinyvit.core.values import Count, Positive, check_fields

from ..statistics import wilson_interval

Normalisation = Literal["none", "l2", "standardise"]
NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)
_TINY = 1e-12
# Above this many numbers the features are fitted in float32: 3 times faster, and the last digits no
# longer matter.
_FLOAT64_UP_TO = 30_000_000
# Multiply-adds per pass over the rows below which a second thread gains nothing. On a busy machine
# the threads' waiting for each other costs 10 times the work.
_ONE_THREAD_UP_TO = 100_000_000


@dataclass(frozen=True)
class ProbeOptions:
    """How a probe is fitted and how its settings are chosen.

    Args:
        cs: The grid of ``C``, ascending; larger is weaker regularisation.
        refine: Half-way points in log C around the best of the grid are tried as well.
        normalisations: Any of ``none``, ``l2`` (rows to length 1) and ``standardise`` (columns to
            variance 1).
        folds: ``1 / folds`` of the training rows, by class, is held out to choose settings.
        cross_validate_below: With fewer rows every fold is held out once, as one small fold says
            little.
        max_iterations: Limit of L-BFGS iterations for each fit.
        tolerance: A fit has converged when no entry of the gradient is larger. The fits of the
            sweep, which only have to rank settings, run in float32 and stop at 10 times this.
        seed: Random seed of the assignment to folds.
        device: The torch device of the fit.
    """

    cs: Annotated[tuple[Positive, ...], MinLen(1)] = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4)
    refine: bool = True
    normalisations: Annotated[tuple[Normalisation, ...], MinLen(1)] = NORMALISATIONS
    folds: Annotated[int, Ge(2)] = 5
    cross_validate_below: int = 1000
    max_iterations: Count = 200
    tolerance: Positive = 1e-5
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_fields(ProbeOptions, vars(self))
        if list(self.cs) != sorted(self.cs):
            raise InputError(f"cs must be in ascending order, not {list(self.cs)}")


@dataclass(frozen=True)
class Trial:
    """One setting of the sweep with its accuracy (0..1) and log loss on rows that were held out."""

    normalisation: str
    c: float
    accuracy: float
    loss: float
    converged: bool


@dataclass(frozen=True)
class ProbeResult:
    """The result of a probe. Accuracies are shares, 0..1.

    ``interval`` is Wilson's 95 % interval: the uncertainty from the size of the test set alone, not
    from the choice of training rows. ``predictions`` (class index of each test row) is for paired
    comparisons and stays out of JSON.
    """

    accuracy: float
    interval: tuple[float, float]
    mean_class_accuracy: float
    per_class: dict[str, float]
    confusion: list[list[int]]
    train_accuracy: float
    normalisation: str
    c: float
    c_at_edge: bool
    converged: bool
    selection: str
    validation_accuracy: float
    trials: list[Trial]
    rows: dict[str, int]
    seconds: float
    predictions: np.ndarray = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, without the predictions."""
        return {key: value for key, value in plain(self).items() if key != "predictions"}


def linear_probe(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    *,
    class_names: Sequence[str] | None = None,
    options: ProbeOptions | None = None,
) -> ProbeResult:
    """Fit a linear classifier on training features and score it on test features.

    Normalisation and ``C`` are chosen on held-out training rows, never on the test rows. Then all
    training rows are fitted once more with that choice.

    Args:
        train_x: ``(n, d)`` features.
        train_y: ``(n,)`` class indices, 0 <= y < k.
        test_x: ``(m, d)`` features.
        test_y: ``(m,)`` class indices.
        class_names: The k names; the indices themselves when not given.
        options: How to fit and to choose.

    Raises:
        InputError: Shapes differ, features are not finite, there is only one class, or no class has
            two rows. Also when a class of the test rows is missing from the training rows.
    """
    options = options or ProbeOptions()
    start = time.perf_counter()
    train_y, test_y = np.asarray(train_y, dtype=np.int64), np.asarray(test_y, dtype=np.int64)
    names = _check(train_x, train_y, test_x, test_y, class_names)
    dtype = torch.float64 if train_x.size <= _FLOAT64_UP_TO else torch.float32
    x = torch.as_tensor(np.asarray(train_x), dtype=dtype, device=options.device)
    y = torch.as_tensor(train_y, device=options.device)
    test = torch.as_tensor(np.asarray(test_x), dtype=dtype, device=options.device)

    fold_of = assign_folds(train_y, options.folds, options.seed)
    held_out = list(range(options.folds)) if len(train_y) < options.cross_validate_below else [0]
    with _threads_for(train_x.size * len(names)):
        trials = _sweep(x.float(), y, torch.as_tensor(fold_of, device=options.device), held_out, len(names), options)
        best = max(trials, key=lambda trial: (trial.accuracy, -trial.loss))
        space = _Space(x, best.normalisation)
        fit = fit_logistic(space(x), y, len(names), best.c, options=options)
    train_right = float((_best(fit.logits(space(x))) == train_y).mean())
    predictions = _best(fit.logits(space(test)))
    if (predictions < 0).any():
        raise InputError("the classifier's outputs are not finite; scale the features down, or give another model")
    confusion = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(confusion, (test_y, predictions), 1)
    per_class = {names[k]: confusion[k, k] / count for k, count in enumerate(confusion.sum(1).tolist()) if count}
    right = int(np.trace(confusion))
    return ProbeResult(
        accuracy=right / len(test_y),
        interval=(wilson_interval(right, len(test_y)).low, wilson_interval(right, len(test_y)).high),
        mean_class_accuracy=float(np.mean(list(per_class.values()))),
        per_class={name: float(value) for name, value in per_class.items()},
        confusion=confusion.tolist(),
        train_accuracy=train_right,
        normalisation=best.normalisation,
        c=best.c,
        c_at_edge=best.c in (options.cs[0], options.cs[-1]),
        converged=fit.converged,
        selection=f"{options.folds}-fold cross-validation" if len(held_out) > 1 else f"1/{options.folds} held out",
        validation_accuracy=best.accuracy,
        trials=trials,
        rows={"train": len(train_y), "test": len(test_y), "features": int(train_x.shape[1]), "classes": len(names)},
        seconds=time.perf_counter() - start,
        predictions=predictions,
    )


def _best(logits: torch.Tensor) -> np.ndarray:
    return best_classes(logits.cpu().numpy())


@contextmanager
def _threads_for(work: int) -> Iterator[None]:
    """Use one thread for small problems inside the block."""
    before = torch.get_num_threads()
    if work < _ONE_THREAD_UP_TO:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, names: Sequence[str] | None
) -> list[str]:
    """Check the arrays and return the class names."""
    for what, features, labels in (("training", train_x, train_y), ("test", test_x, test_y)):
        if features.ndim != 2 or labels.ndim != 1 or len(features) != len(labels) or len(labels) == 0:
            raise InputError(f"{what} features {features.shape} and labels {labels.shape} do not fit together")
        if not np.isfinite(features).all():
            raise InputError(f"the {what} features hold values that are not finite")
        if labels.min() < 0 or (names is not None and labels.max() >= len(names)):
            raise InputError(f"the {what} labels must be class indices from 0 to {len(names or []) - 1}")
    if train_x.shape[1] != test_x.shape[1]:
        raise InputError(f"training rows have {train_x.shape[1]} features and test rows {test_x.shape[1]}")
    present = np.unique(train_y)
    if len(present) < 2:
        raise InputError("a probe needs at least two classes among the training rows")
    missing = sorted(set(np.unique(test_y).tolist()) - set(present.tolist()))
    if missing:
        shown = ", ".join(str(names[k]) if names is not None else str(k) for k in missing[:5])
        raise InputError(f"test rows have classes that no training row has: {shown}")
    return list(names) if names is not None else [str(k) for k in range(int(present.max()) + 1)]


def assign_folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Deal the rows of each class to folds in a shuffled order; ``(n,)`` fold indices.

    A class with a single row gets fold -1: it is always trained on and never held out.

    Raises:
        InputError: No class has two rows, so nothing can be held out.
    """
    generator = np.random.default_rng(seed)
    fold_of = np.full(len(labels), -1, dtype=np.int64)
    for position, label in enumerate(np.unique(labels)):
        rows = generator.permutation(np.flatnonzero(labels == label))
        if len(rows) > 1:
            # The first fold rotates over the classes, or small classes would all fill fold 0.
            fold_of[rows] = (np.arange(len(rows)) + position) % folds
    if (fold_of < 0).all():
        raise InputError("no class has two training images, so none can be held out to choose settings")
    return fold_of


def _sweep(
    x: torch.Tensor, y: torch.Tensor, fold_of: torch.Tensor, held_out: list[int], classes: int, options: ProbeOptions
) -> list[Trial]:
    """Return trials of every normalisation and C, then of half-way points around the best."""
    trials: list[Trial] = []
    for normalisation in options.normalisations:
        trials += _score(x, y, fold_of, held_out, classes, normalisation, options.cs, options)
    if options.refine and len(options.cs) > 1:
        best = max(trials, key=lambda trial: (trial.accuracy, -trial.loss))
        at = options.cs.index(best.c)
        pairs = [(options.cs[i], options.cs[i + 1]) for i in (at - 1, at) if 0 <= i < len(options.cs) - 1]
        between = tuple(float((low * high) ** 0.5) for low, high in pairs)
        trials += _score(x, y, fold_of, held_out, classes, best.normalisation, between, options)
    return trials


def _score(
    x: torch.Tensor,
    y: torch.Tensor,
    fold_of: torch.Tensor,
    held_out: list[int],
    classes: int,
    normalisation: str,
    cs: Sequence[float],
    options: ProbeOptions,
) -> list[Trial]:
    """Return a trial of one normalisation per C: held-out accuracy and log loss over all folds."""
    right, loss, total, converged = [0] * len(cs), [0.0] * len(cs), 0, [True] * len(cs)
    rough = replace(options, tolerance=10 * options.tolerance)
    for fold in held_out:
        out = fold_of == fold
        if not bool(out.any()):
            continue
        space = _Space(x[~out], normalisation)
        fit_x, fit_y, out_x, out_y = space(x[~out]), y[~out], space(x[out]), y[out]
        total += len(out_y)
        fit = None
        for i, c in enumerate(cs):
            fit = fit_logistic(fit_x, fit_y, classes, c, start=fit, options=rough)
            logits = fit.logits(out_x)
            right[i] += int((_best(logits) == out_y.cpu().numpy()).sum())
            loss[i] += float(F.cross_entropy(logits, out_y, reduction="sum"))
            converged[i] = converged[i] and fit.converged
    if total == 0:
        raise InputError("too few training images to hold any out; give more, or fewer folds")
    return [Trial(normalisation, c, right[i] / total, loss[i] / total, converged[i]) for i, c in enumerate(cs)]


class _Space:
    """Normalisation fitted on some rows and applied to any: ``(n, d) -> (n, at most min(n, d))``.

    The last step rotates the features to the principal axes of the rows and drops axes without
    variance. The penalty does not depend on rotation and penalises every dropped direction, so the
    optimum is the same. The axes are uncorrelated, as the solver's scaling of single axes requires,
    and there are at most n of them.
    """

    def __init__(self, x: torch.Tensor, normalisation: str) -> None:
        self.unit_rows = normalisation == "l2"
        x = self._rows(x)
        self.mean = x.mean(0)
        centred = x - self.mean
        scale = torch.ones_like(self.mean)
        if normalisation == "standardise":
            deviation = centred.square().mean(0).sqrt()
            # A constant feature carries no information; dividing by its rounding noise would
            # amplify the noise.
            useful = deviation > 1e-6 * deviation.max().clamp_min(_TINY)
            scale = torch.where(useful, deviation.clamp_min(_TINY).reciprocal(), torch.zeros_like(deviation))
        length = (centred * scale).square().sum(1).mean().sqrt().clamp_min(_TINY)
        self.scale = scale / length
        self.basis = _principal_axes(centred * self.scale)

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(x, dim=1, eps=_TINY) if self.unit_rows else x

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return (self._rows(x) - self.mean) * self.scale @ self.basis


def _principal_axes(x: torch.Tensor) -> torch.Tensor:
    """Return orthonormal axes ``(d, r)`` of the variance of centred rows.

    They come from the smaller of the two Gram matrices.
    """
    wide = x.shape[1] > len(x)
    x64 = x.double()  # squares in float32 would lose the small axes
    values, vectors = torch.linalg.eigh(x64 @ x64.T if wide else x64.T @ x64)
    kept = values > 1e-12 * values[-1]
    axes = vectors[:, kept]
    if wide:
        axes = x64.T @ axes / values[kept].sqrt()
    return axes.to(x.dtype)


@dataclass(frozen=True)
class LogisticFit:
    """A fitted classifier: ``weight`` (d, k), ``bias`` (k,), and how the fit ended."""

    weight: torch.Tensor
    bias: torch.Tensor
    loss: float
    gradient: float
    iterations: int
    converged: bool

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits ``(n, k)`` of rows ``(n, d)``."""
        return x @ self.weight + self.bias


def fit_logistic(
    x: torch.Tensor,
    y: torch.Tensor,
    classes: int,
    c: float,
    *,
    start: LogisticFit | None = None,
    options: ProbeOptions | None = None,
) -> LogisticFit:
    """Minimise ``mean cross entropy + ||W||^2 / (2 C n)`` by L-BFGS.

    The line search keeps the strong Wolfe conditions. The solver works on ``V`` with ``W = D V``.
    The diagonal ``D`` evens out the curvature along each column of ``x``. With uncorrelated columns
    this needs a fraction of the steps, and the optimum is the same.

    Args:
        x: ``(n, d)`` rows.
        y: ``(n,)`` class indices.
        classes: Number of classes k.
        c: Inverse strength of the penalty, scikit-learn's ``C``. The bias is not penalised.
        start: A fit of the same shape to start from (the neighbouring C), else zeros.
        options: ``max_iterations`` and ``tolerance`` are used.
    """
    options = options or ProbeOptions()
    rows, features = x.shape
    targets = F.one_hot(y, classes).to(x.dtype)
    strength = 1.0 / (c * rows)
    # Curvature of the cross entropy at even odds is about the column's mean square / k.
    scales = (x.square().mean(0) / classes + strength).rsqrt()[:, None]
    # Weight and bias in one tensor, (d + 1, k): L-BFGS then keeps one history.
    theta = x.new_zeros(features + 1, classes)
    if start is not None:
        theta = torch.cat([start.weight / scales, start.bias[None]])
    theta.grad = torch.zeros_like(theta)

    def evaluate() -> torch.Tensor:
        """Return the objective.

        Its gradient goes into ``theta.grad`` (closed form: autograd doubles the time).
        """
        weight, bias = scales * theta[:-1], theta[-1]
        log_p = F.log_softmax(x @ weight + bias, dim=1)
        residual = (log_p.exp() - targets) / rows
        theta.grad[:-1] = torch.addmm(weight, x.T, residual, beta=strength).mul_(scales)  # pyright: ignore[reportOptionalSubscript]
        theta.grad[-1] = residual.sum(0)  # pyright: ignore[reportOptionalSubscript]
        # Sums in float64: near the optimum the line search compares losses that differ in the
        # eighth digit.
        wrong, size = -(log_p * targets).sum(dtype=torch.float64), weight.square().sum(dtype=torch.float64)
        return wrong / rows + 0.5 * strength * size

    solver = torch.optim.LBFGS(
        [theta],
        max_iter=options.max_iterations,
        max_eval=2 * options.max_iterations,
        tolerance_grad=options.tolerance,
        tolerance_change=1e-14,
        history_size=10,
        line_search_fn="strong_wolfe",
    )
    with torch.no_grad():
        solver.step(evaluate)  # pyright: ignore[reportArgumentType]
        loss = float(evaluate())
    gradient = float(theta.grad.abs().max())
    return LogisticFit(
        weight=scales * theta[:-1],
        bias=theta[-1].clone(),
        loss=loss,
        gradient=gradient,
        iterations=solver.state[theta]["n_iter"],
        converged=gradient <= options.tolerance,
    )
