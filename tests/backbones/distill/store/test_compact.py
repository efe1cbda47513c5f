"""Compact rows: sets of indices without loss, 8 bits a log-probability, and what that costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tinyvit.backbones.distill.store import RowLayout, compact, encode_logits, restore
from tinyvit.backbones.distill.store.codec import divergence


@pytest.mark.parametrize(("k", "classes"), [(1, 1), (1, 2), (5, 5), (5, 20), (10, 1000), (100, 21841), (3, 70000)])
def test_sets_lose_nothing(k, classes):
    rng = np.random.default_rng(0)
    index = np.sort(np.stack([rng.permutation(classes)[:k] for _ in range(50)]), axis=1)
    index[0], index[1] = np.arange(k), np.arange(classes - k, classes)
    coded = compact.encode_sets(index, classes)
    assert coded.shape == (50, compact.set_bytes(k, classes))
    assert np.array_equal(compact.decode_sets(coded, k, classes), index)


def test_a_set_has_the_documented_bits():
    # K = 3, C = 10: l = 1, h = 3 + (9 >> 1) = 7. Indices 1, 4, 9 have high parts 0, 2, 4 and low
    # bits 1, 0, 1.
    bits = [1, 0, 0, 1, 0, 0, 1, 1, 0, 1]
    expected = bytes([sum(bit << i for i, bit in enumerate(bits[:8])), sum(bit << i for i, bit in enumerate(bits[8:]))])
    assert compact.encode_sets(np.array([[1, 4, 9]]), 10).tobytes() == expected


@pytest.mark.parametrize(
    ("classes", "k", "scale"), [(1000, 100, 4.0), (21841, 100, 3.0), (20, 20, 8.0), (1000, 1, 4.0)]
)
def test_compact_labels_are_close_to_the_full_ones(classes, k, scale):
    logits = torch.randn(64, classes, generator=torch.Generator().manual_seed(0)) * scale
    full, small = RowLayout(k, classes), RowLayout(k, classes, coding="compact")
    one, other = encode_logits(logits, full), encode_logits(logits, small)
    assert np.array_equal(one["argmax"], other["argmax"])
    a, b = restore(one, full), restore(other, small)
    assert torch.equal(a.index.sort(1)[0], b.index.sort(1)[0])
    assert (b.probability.diff(dim=1) <= 0).all()
    torch.testing.assert_close(b.probability.sum(1) + b.residual, torch.ones(64))
    loss = divergence(a, b)
    np.testing.assert_allclose(other["kl"], loss.numpy(), rtol=1e-5, atol=1e-12)
    # The divergence as it is defined, over all classes.
    p, q = (_dense(labels, classes, k) for labels in (a, b))
    dense = np.where(p > 0, p * (np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(q, 1e-300))), 0).sum(1)
    np.testing.assert_allclose(loss.numpy(), dense, atol=1e-6)
    assert loss.max() < 2e-3
    for temperature in (2.0, 3.0, 4.0):
        wanted = restore(one, full, temperature).probability.gather(1, a.index.argsort(1))
        found = restore(other, small, temperature).probability.gather(1, b.index.argsort(1))
        torch.testing.assert_close(found, wanted, atol=0.01, rtol=0.1)


def _dense(labels, classes: int, k: int) -> np.ndarray:
    rest = labels.residual.double().numpy()[:, None] / max(classes - k, 1)
    out = np.repeat(rest, classes, axis=1)
    np.put_along_axis(out, labels.index.numpy(), labels.probability.double().numpy(), 1)
    return out


def test_equal_logits_and_far_ones_survive():
    layout = RowLayout(4, 6, coding="compact")
    logits = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [0.0, -90000.0, -1e5, 5.0, -7e4, -8e4]])
    rows = encode_logits(logits, layout)
    labels = restore(rows, layout)
    assert labels.index[0].tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(labels.probability[0], torch.full((4,), 1 / 6))
    assert rows["argmax"].tolist() == [0, 3]
    assert torch.isfinite(labels.probability).all()


def test_compact_rows_are_half_the_size_at_100_classes():
    for classes in (1000, 21841):
        sizes = [
            RowLayout(100, classes, coding=coding, record_bytes=20).dtype.itemsize for coding in ("full", "compact")
        ]
        assert sizes[1] <= 0.6 * sizes[0]
