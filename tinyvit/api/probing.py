"""``tinyvit.linear_probe``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ._devices import resolve_device

if TYPE_CHECKING:
    from tinyvit.benchmarks.probe import ProbeJob, ProbeResult


def linear_probe(
    model: str,
    data: str | Path,
    *,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    prefix: str | None = None,
    partial: bool = False,
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
    job = probe_job(dict(locals()))
    from tinyvit.benchmarks.probe import run_linear_probe
    from tinyvit.core.allocator import tune_allocator

    tune_allocator()
    return run_linear_probe(job)[0]


def probe_job(options: Mapping[str, Any]) -> ProbeJob:
    """Return the job that the options of ``tinyvit probe linear`` ask for.

    Args:
        options: The arguments of :func:`linear_probe`; other keys are ignored.

    Raises:
        InputError: The device does not exist, or ``workers`` and ``ray`` do not fit it.
    """
    import torch

    from tinyvit.benchmarks.probe import ProbeJob
    from tinyvit.core.console import say
    from tinyvit.core.jobs import choose_place

    device = resolve_device(options["device"])
    ray = options["ray"]
    wanted = options["device"] if ray else device
    place = choose_place(options["workers"], ray, wanted, say, gpus=torch.cuda.device_count())
    paths = {name: None if options[name] is None else Path(options[name]) for name in ("data", "weights", "cache")}
    values = {**options, **paths, "device": device, "place": place}
    return ProbeJob(**{name: value for name, value in values.items() if name in ProbeJob.__dataclass_fields__})
