"""The linear probe against the definition of its optimum, and its choices against rows that it must
not see.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from tinyvit.benchmarks.probe import ProbeOptions, linear_probe
from tinyvit.benchmarks.probe.linear import NORMALISATIONS, _Space, assign_folds, fit_logistic
from tinyvit.core.errors import InputError

QUICK = ProbeOptions(cs=(0.1, 1.0, 10.0), refine=False)


def blobs(
    rows: int, features: int, classes: int = 4, spread: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Points around one centre a class; the centres depend on the numbers of classes and features
    alone.
    """
    centres = np.random.default_rng(99).normal(size=(classes, features))
    labels = np.arange(rows) % classes
    noise = np.random.default_rng(seed).normal(size=(rows, features))
    return (centres[labels] + spread * noise).astype(np.float32), labels


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_the_fit_is_a_minimum_of_the_objective(c: float) -> None:
    features, labels = blobs(120, 10, spread=2.0)
    x, y = torch.as_tensor(features, dtype=torch.float64) / 5, torch.as_tensor(labels)
    fit = fit_logistic(x, y, 4, c, options=ProbeOptions(tolerance=1e-7, max_iterations=500))
    weight, bias = fit.weight.clone().requires_grad_(), fit.bias.clone().requires_grad_()
    loss = F.cross_entropy(x @ weight + bias, y) + weight.square().sum() / (2 * c * len(y))
    gradients = torch.autograd.grad(loss, [weight, bias])
    assert fit.converged
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-6
    assert loss.item() == pytest.approx(fit.loss)


def test_the_fit_equals_scikit_learn() -> None:
    features, labels = blobs(120, 10, spread=2.0)
    # In float64: scikit-learn computes in the precision of its input.
    reference = LogisticRegression(C=0.7, tol=1e-9, max_iter=5000).fit(features.astype(np.float64), labels)
    x, y = torch.as_tensor(features, dtype=torch.float64), torch.as_tensor(labels)
    fit = fit_logistic(x, y, 4, 0.7, options=ProbeOptions(tolerance=1e-8, max_iterations=500))
    np.testing.assert_allclose(fit.weight.T, reference.coef_, atol=1e-4)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_turning_to_principal_axes_changes_nothing(normalisation: str) -> None:
    """30 rows of 50 features: the fit in the 29 axes equals the fit in all 50 features."""
    features, labels = blobs(30, 50)
    more, _ = blobs(40, 50, seed=1)
    x, y, other = torch.as_tensor(features).double(), torch.as_tensor(labels), torch.as_tensor(more).double()
    options = ProbeOptions(tolerance=1e-8, max_iterations=500)
    space = _Space(x, normalisation)
    turned = fit_logistic(space(x), y, 4, 1.0, options=options).logits(space(other))
    assert space(x).shape[1] <= 29
    space.basis = torch.eye(50, dtype=torch.float64)
    full = fit_logistic(space(x), y, 4, 1.0, options=options).logits(space(other))
    torch.testing.assert_close(turned, full, atol=1e-5, rtol=0)


def test_separated_classes_are_told_apart_and_shuffled_labels_are_not() -> None:
    (train, labels), (test, test_labels) = blobs(80, 16, spread=0.3), blobs(200, 16, spread=0.3, seed=1)
    result = linear_probe(train, labels, test, test_labels, class_names=["a", "b", "c", "d"], options=QUICK)
    assert result.accuracy == 1.0
    assert result.interval[0] > 0.97
    assert result.per_class == {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}
    assert np.array_equal(result.confusion, np.diag([50] * 4))
    assert np.array_equal(result.predictions, test_labels)

    shuffled = np.random.default_rng(0).permutation(labels)
    assert linear_probe(train, shuffled, test, test_labels, options=QUICK).accuracy < 0.75


def test_accuracy_is_that_of_its_predictions_and_the_result_is_json() -> None:
    import json

    (train, labels), (test, test_labels) = blobs(60, 8, spread=2.0), blobs(90, 8, spread=2.0, seed=1)
    result = linear_probe(train, labels, test, test_labels, options=QUICK)
    assert result.accuracy == pytest.approx(np.mean(result.predictions == test_labels))
    assert 0.25 < result.accuracy < 1
    assert np.sum(result.confusion) == 90
    document = json.loads(json.dumps(result.to_dict()))
    assert document["rows"] == {"train": 60, "test": 90, "features": 8, "classes": 4}
    assert len(document["trials"]) == len(QUICK.cs) * len(NORMALISATIONS)


def test_test_rows_do_not_influence_the_choice() -> None:
    (train, labels), (test, test_labels) = blobs(60, 8, spread=2.0), blobs(90, 8, spread=2.0, seed=1)
    chosen = linear_probe(train, labels, test, test_labels, options=QUICK)
    other = linear_probe(train, labels, -7 * test, test_labels, options=QUICK)
    assert (chosen.normalisation, chosen.c, chosen.trials) == (other.normalisation, other.c, other.trials)


def test_the_sweep_prefers_the_normalisation_that_helps() -> None:
    """One feature of huge, meaningless variance: standardising is what saves the others."""
    (train, labels), (test, test_labels) = blobs(200, 6, spread=0.8), blobs(200, 6, spread=0.8, seed=1)
    generator = np.random.default_rng(5)
    train = np.column_stack([train, 1e4 * generator.normal(size=200)])
    test = np.column_stack([test, 1e4 * generator.normal(size=200)])
    result = linear_probe(train, labels, test, test_labels, options=QUICK)
    assert result.normalisation == "standardise"
    assert result.accuracy > 0.8
    assert result.selection == "5-fold cross-validation"


def test_constant_features_are_harmless() -> None:
    (train, labels), (test, test_labels) = blobs(80, 6, spread=0.3), blobs(80, 6, spread=0.3, seed=1)
    options = ProbeOptions(cs=(1.0,), normalisations=("standardise",))
    plain = linear_probe(train, labels, test, test_labels, options=options)
    constant = np.full((80, 1), 0.1, dtype=np.float32)
    padded = linear_probe(
        np.hstack([train, constant]), labels, np.hstack([test, constant]), test_labels, options=options
    )
    assert np.array_equal(plain.predictions, padded.predictions)


def test_large_training_sets_hold_out_one_fold() -> None:
    train, labels = blobs(200, 4)
    options = ProbeOptions(cs=(1.0,), cross_validate_below=200, normalisations=("none",))
    assert linear_probe(train, labels, train, labels, options=options).selection == "1/5 held out"


def test_folds_are_even_by_class_and_leave_a_class_of_one_in_training() -> None:
    labels = np.array([0] * 20 + [1] * 10 + [2])
    folds = assign_folds(labels, 5, seed=0)
    assert np.bincount(folds[labels == 0]).tolist() == [4] * 5
    assert np.bincount(folds[labels == 1]).tolist() == [2] * 5
    assert folds[-1] == -1
    assert not np.array_equal(folds, assign_folds(labels, 5, seed=1))
    with pytest.raises(InputError, match="no class has two"):
        assign_folds(np.arange(5), 5, seed=0)


def test_bad_input_is_named() -> None:
    train, labels = blobs(20, 4)
    for arguments, message in [
        ((train, labels[:-1], train, labels), "do not fit together"),
        ((train, labels, train[:, :3], labels), "4 features and test rows 3"),
        ((train, labels * 0, train, labels * 0), "two classes"),
        ((train[labels < 3], labels[labels < 3], train, labels), "no training row has: 3"),
        ((train * np.nan, labels, train, labels), "not finite"),
    ]:
        with pytest.raises(InputError, match=message):
            linear_probe(*arguments)
    with pytest.raises(InputError, match="class indices"):
        linear_probe(train, labels, train, labels, class_names=["a", "b"])
    for options, message in [
        ({"cs": (1.0, 0.1)}, "ascending"),
        ({"normalisations": ("z",)}, "normalisations.0 must be"),
    ]:
        with pytest.raises(InputError, match=message):
            ProbeOptions(**options)
