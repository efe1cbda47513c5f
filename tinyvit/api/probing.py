"""``tinyvit.linear_probe``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ._devices import resolve_device

if TYPE_CHECKING:
    from tinyvit.benchmarks.probe import ProbeResult


def linear_probe(
    model: str,
    data: str | Path,
    *,
    weights: str | Path | None = None,
    train_limit: int | None = None,
    test_limit: int | None = None,
    size: int | None = None,
    crop_pct: float | None = None,
    pool: Literal["penultimate", "stages34"] = "penultimate",
    seed: int = 0,
    batch_size: int = 32,
    threads: int = 2,
    workers: int | None = None,
    ray: str | None = None,
    cache: str | Path | None = None,
    deploy: bool = True,
    device: str = "auto",
) -> ProbeResult:
    """Train a linear classifier on frozen features and return its test accuracy, as ``tinyvit probe
    linear`` does.

    The arguments have the names, the meaning and the defaults of the options (``tinyvit probe
    linear --help``); without ``cache`` no features are kept.

    Raises:
        InputError: Bad data, an unknown model, weights that do not fit, or a cache that cannot be
            written.
    """
    import torch

    from tinyvit.benchmarks.probe import ProbeJob, run_linear_probe
    from tinyvit.core.allocator import tune_allocator
    from tinyvit.core.console import say
    from tinyvit.core.jobs import choose_place

    wanted = device if ray else resolve_device(device)
    place = choose_place(workers, ray, wanted, say, gpus=torch.cuda.device_count())
    tune_allocator()
    job = ProbeJob(
        model=model,
        data=Path(data),
        weights=None if weights is None else Path(weights),
        size=size,
        crop_pct=crop_pct,
        pool=pool,
        train_limit=train_limit,
        test_limit=test_limit,
        seed=seed,
        device=resolve_device(device),
        batch_size=batch_size,
        threads=threads,
        place=place,
        cache=None if cache is None else Path(cache),
        deploy=deploy,
    )
    return run_linear_probe(job)[0]
