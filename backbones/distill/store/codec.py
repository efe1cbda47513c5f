"""A teacher's logits become rows, and rows become soft labels (``FORMAT.md``)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from tinyvit.core.errors import InputError

from . import compact
from .layout import RowLayout

_F16_MIN = -65504.0


def encode_logits(logits: torch.Tensor, layout: RowLayout) -> np.ndarray:
    """Return labels from logits; ``params``, ``flags`` and ``crc`` stay zero.

    Args:
        logits: ``(B, C)``, float32, finite.
        layout: The row layout, of coding ``full`` or ``compact``.

    Returns:
        ``(B,)`` rows.

    Raises:
        InputError: The coding holds imported labels only.
    """
    if layout.coding == "official":
        raise InputError(
            "rows of coding 'official' are imported, never made from logits; use coding 'full' or 'compact'"
        )
    full = replace(layout, coding="full")
    rows = np.zeros(len(logits), full.dtype)
    exact = logits.double()
    top, index = _top(exact, layout.topk)
    for j, tau in enumerate(layout.temperatures):
        lse = (exact / tau).logsumexp(1)
        rows["lse"][:, j] = lse.cpu().numpy()
        inside = (top / tau - lse[:, None]).exp().sum(1)
        rows["residual"][:, j] = (1 - inside).clamp_(min=0).cpu().numpy()
    logp = (top - exact.logsumexp(1, keepdim=True)).clamp_(min=_F16_MIN)
    rows["logp"] = logp.cpu().numpy()
    rows["index"] = index.cpu().numpy()
    rows["argmax"] = rows["index"][:, 0]
    return rows if layout.coding == "full" else _compacted(rows, (top[:, :1] - top).cpu().numpy(), layout)


def _compacted(full: np.ndarray, depth: np.ndarray, layout: RowLayout) -> np.ndarray:
    """Return compact rows from full ones and ``(B, K)`` f64 depths below the largest logit."""
    rows = np.zeros(len(full), layout.dtype)
    rows["residual"], rows["argmax"] = full["residual"], full["argmax"]
    order = full["index"].argsort(1)
    rows["span"], rows["steps"] = compact.encode_depths(np.take_along_axis(depth, order, 1))
    rows["set"] = compact.encode_sets(np.take_along_axis(full["index"], order, 1), layout.num_classes)
    exact = restore(full, replace(layout, coding="full"))
    coded = restore(rows, layout)
    rows["kl"] = divergence(exact, coded).numpy()
    return rows


def divergence(exact: SoftLabels, coded: SoftLabels) -> torch.Tensor:
    """Return the Kullback-Leibler divergence of soft labels, ``(B,)`` f64, in nats.

    Both have the same classes and residual.
    """
    p = exact.probability.double().gather(1, exact.index.argsort(1))
    q = coded.probability.double().gather(1, coded.index.argsort(1))
    # A class without probability loses nothing. f32 may leave p slightly below q everywhere, and KL
    # below 0.
    terms = torch.where(p > 0, p * (p.clamp(min=1e-300) / q.clamp(min=1e-300)).log(), torch.zeros_like(p))
    return terms.sum(1).clamp_(min=0)


def _top(exact: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k largest values of each row, descending, and their indices.

    Among equal values the smaller index comes first; torch leaves that open.
    """
    top, index = exact.topk(k, dim=1)
    tied = (exact >= top[:, -1:]).sum(1) > k
    by_index = index.argsort(dim=1)
    order = by_index.gather(1, top.gather(1, by_index).argsort(dim=1, descending=True, stable=True))
    top, index = top.gather(1, order), index.gather(1, order)
    if tied.any():  # rare: which of the equal values at rank k belong to the k is open, too
        order = exact[tied].argsort(dim=1, descending=True, stable=True)[:, :k]
        index[tied], top[tied] = order, exact[tied].gather(1, order)
    return top, index


@dataclass(frozen=True)
class SoftLabels:
    """Soft labels restored from rows.

    Args:
        index: ``(B, K)`` int64, class indices, by descending probability.
        probability: ``(B, K)`` f32, their probabilities.
        residual: ``(B,)`` f32, the mass of all other classes together; each row sums to 1 with it.
    """

    index: torch.Tensor
    probability: torch.Tensor
    residual: torch.Tensor

    def dense(self, num_classes: int) -> torch.Tensor:
        """Return all C probabilities, ``(B, C)``.

        The residual is spread evenly over the classes that are not stored.
        """
        rest = self.residual / max(num_classes - self.index.shape[1], 1)
        return rest[:, None].repeat(1, num_classes).scatter_(1, self.index, self.probability)


def restore(rows: np.ndarray, layout: RowLayout, temperature: float = 1.0) -> SoftLabels:
    """Return the soft labels of rows at a stored temperature.

    Args:
        rows: ``(B,)`` valid rows.
        layout: Their layout.
        temperature: One of ``layout.temperatures``.

    Raises:
        InputError: Nothing is stored for this temperature.
    """
    if temperature not in layout.temperatures:
        raise InputError(f"the store holds temperatures {layout.temperatures}, not {temperature}; use one of these")
    j = layout.temperatures.index(temperature)
    if layout.coding == "compact":
        depth, index = compact.decode(rows["span"], rows["steps"], rows["set"], layout.num_classes)
        probability = np.exp(-depth / temperature)
    elif layout.coding == "official":
        index, probability = rows["index"], rows["prob"].astype(np.float64)
    else:
        index, logp = rows["index"], rows["logp"].astype(np.float64)
        probability = np.exp((logp + rows["lse"][:, :1]) / temperature - rows["lse"][:, j : j + 1])
    residual = rows["residual"][:, j].astype(np.float64)
    # f16 leaves the sum within 0.1 % of 1.
    probability *= ((1 - residual) / probability.sum(1))[:, None]
    return SoftLabels(
        torch.from_numpy(index.astype(np.int64)),
        torch.from_numpy(probability.astype(np.float32)),
        torch.from_numpy(residual.astype(np.float32)),
    )
