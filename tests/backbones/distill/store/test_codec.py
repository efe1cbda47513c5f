"""Logits become rows, and rows become soft labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tinyvit.backbones.distill.store import RowLayout, encode_logits, restore
from tinyvit.core.errors import InputError


def some_logits(rows: int, classes: int, scale: float = 4.0) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(0)) * scale


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0, 4.0])
def test_soft_labels_are_restored_at_every_temperature(temperature):
    logits = some_logits(64, 50)
    layout = RowLayout(10, 50)
    labels = restore(encode_logits(logits, layout), layout, temperature)
    dense = (logits.double() / temperature).softmax(1)
    expected, index = dense.topk(10)
    assert torch.equal(labels.index, logits.topk(10).indices)
    assert torch.equal(labels.index, index)
    # f16 log-probabilities: at most half a unit in the last place of values below 32, 2**-7.
    torch.testing.assert_close(labels.probability.double(), expected, rtol=0.008, atol=1e-6)
    torch.testing.assert_close(labels.residual.double(), 1 - expected.sum(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(labels.probability.sum(1) + labels.residual, torch.ones(64))


def test_temperature_that_is_not_stored_is_refused():
    layout = RowLayout(2, 5)
    with pytest.raises(InputError, match=r"not 1\.5"):
        restore(encode_logits(some_logits(1, 5), layout), layout, 1.5)


def test_extreme_logits_stay_finite():
    layout = RowLayout(3, 4)
    rows = encode_logits(torch.tensor([[1e5, 0.0, -1e5, -3e5]]), layout)
    assert rows["logp"].tolist() == [[0.0, -65504.0, -65504.0]]
    assert rows["residual"].tolist() == [[0.0] * 4]
    assert np.isfinite(rows["lse"]).all()


def test_equal_logits_come_in_order_of_index():
    layout = RowLayout(4, 6)
    rows = encode_logits(torch.tensor([[0.0, 2.0, 1.0, 2.0, 1.0, 2.0]]), layout)
    assert rows["index"].tolist() == [[1, 3, 5, 2]]
    assert rows["argmax"].tolist() == [1]


def test_all_classes_leave_no_residual():
    layout = RowLayout(6, 6)
    labels = restore(encode_logits(some_logits(8, 6), layout), layout)
    assert labels.residual.abs().max() < 1e-6
