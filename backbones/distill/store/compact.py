"""The compact coding of labels (``FORMAT.md``): 8 bits per log-probability, indices as a set.

The indices lose nothing: K indices out of C are stored as a set in Elias-Fano's way, which has a
fixed length of about ``K * (2 + log2(C / K))`` bits. The log-probabilities lose. Where a class is
``d`` nats below the best one, the square root of ``d`` is rounded to 255 steps. Probable classes
are therefore exact and the tail is coarse.
"""

from __future__ import annotations

import numpy as np

_STEPS = 255


def low_bits(k: int, classes: int) -> int:
    """Return how many bits of an index are stored as they are.

    This is the largest ``l`` with ``k * 2**l <= classes``.
    """
    return (classes // k).bit_length() - 1


def set_bytes(k: int, classes: int) -> int:
    """Return the length in bytes of a set of ``k`` indices below ``classes``."""
    low = low_bits(k, classes)
    return -(-(k + ((classes - 1) >> low) + k * low) // 8)


def encode_sets(index: np.ndarray, classes: int) -> np.ndarray:
    """Return sets from ascending indices: ``(B, K)`` -> ``(B, set_bytes)`` u8."""
    batch, k = index.shape
    low, index = low_bits(k, classes), index.astype(np.int64)
    bits = np.zeros((batch, set_bytes(k, classes) * 8), np.uint8)
    np.put_along_axis(bits, (index >> low) + np.arange(k), 1, axis=1)
    tail = (index[:, :, None] >> np.arange(low)) & 1
    start = k + ((classes - 1) >> low)
    bits[:, start : start + k * low] = tail.reshape(batch, k * low)
    return np.packbits(bits, axis=1, bitorder="little")


def decode_sets(sets: np.ndarray, k: int, classes: int) -> np.ndarray:
    """Return the ascending indices of sets: ``(B, set_bytes)`` u8 -> ``(B, K)`` int64."""
    low = low_bits(k, classes)
    bits = np.unpackbits(np.ascontiguousarray(sets), axis=1, bitorder="little")
    start = k + ((classes - 1) >> low)
    index = np.nonzero(bits[:, :start])[1].reshape(-1, k) - np.arange(k)
    tail = bits[:, start : start + k * low].reshape(len(bits), k, low).astype(np.int64)
    return (index << low) | (tail << np.arange(low)).sum(2)


def encode_depths(depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return spans ``(B,)`` f32 and steps ``(B, K)`` u8.

    Args:
        depth: ``(B, K)`` f64, how far each logit is below the largest.
    """
    span = depth.max(1).astype(np.float32)
    scale = np.maximum(span.astype(np.float64), np.finfo(np.float32).tiny)[:, None]
    return span, np.rint(_STEPS * np.sqrt(np.minimum(depth / scale, 1))).astype(np.uint8)


def decode(span: np.ndarray, steps: np.ndarray, sets: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return depths in nats, ``(B, K)`` f64, ascending, and their class indices, ``(B, K)``."""
    order = steps.argsort(1, kind="stable")  # among equal steps the smaller index first
    depth = span.astype(np.float64)[:, None] * (np.take_along_axis(steps, order, 1) / _STEPS) ** 2
    return depth, np.take_along_axis(decode_sets(sets, steps.shape[1], classes), order, 1)
