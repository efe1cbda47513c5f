"""Detectors, with their time split into preprocessing, network and post-processing.

    python -m tinyvit.benchmarks.speed.studies.detectors --images val2017 --img-size 640 --out
    detectors.json

TinyViT-5M and 21M and MMDetection's own ResNet-50 in RetinaNet, and TinyViT-5M and ResNet-50 in
Mask R-CNN, take turns on the same photographs in one process. Preprocessing is from the decoded
image to the normalised batch, post-processing is everything in ``predict_by_feat`` (decoding,
thresholds, NMS, masks), and the network is the rest.

Weights are random, so thresholds and not the images decide the work of post-processing. RetinaNet
keeps every box here (``score_thr`` 0): 1,000 candidates per level go through NMS, as in a very
crowded image. In Mask R-CNN the proposals are real work, and no box passes its threshold, so only
the box head of the second stage counts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tinyvit.core.allocator import tune_allocator
from tinyvit.core.console import track
from tinyvit.core.errors import InputError
from tinyvit.core.files import write_json
from tinyvit.core.machine import describe_machine

from ...scripts import run_script
from ...statistics import median_interval, paired_ratio, quantile
from ..results.load import Limits, sentence, summarise
from ..run.sensor import ContentionSensor

#: Seconds by part for each image of one round.
Turn = list[dict[str, float]]
PARTS = ("preprocess", "network", "postprocess")
_RETINANET, _MASK_RCNN = "retinanet_tiny_vit_5m_fpn_1x_coco", "mask-rcnn_tiny_vit_5m_fpn_1x_coco"
_TINY_21M = {"model.backbone.arch": "21m", "model.neck.in_channels": [192, 384, 576]}
_EVERY_BOX = {"model.test_cfg.score_thr": 0.0}


@dataclass(frozen=True)
class Detector:
    """One detector.

    Args:
        name: The name in the table.
        config: Name of a shipped config; its dataset pipeline is used in any case.
        overrides: Changes to the config.
        model: MMDetection's config whose ``model`` replaces ours, or ``None``.
        deployed: Whether the backbone runs in its deployed form.
    """

    name: str
    config: str
    overrides: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    deployed: bool = True


def detectors() -> list[Detector]:
    """Return the detectors of the table; the others are compared with the first one."""
    return [
        Detector("RetinaNet TinyViT-5M deployed", _RETINANET, _EVERY_BOX),
        Detector("RetinaNet TinyViT-5M module", _RETINANET, _EVERY_BOX, deployed=False),
        Detector("RetinaNet TinyViT-21M deployed", _RETINANET, _TINY_21M | _EVERY_BOX),
        Detector("RetinaNet TinyViT-21M module", _RETINANET, _TINY_21M | _EVERY_BOX, deployed=False),
        Detector(
            "RetinaNet ResNet-50 module",
            _RETINANET,
            _EVERY_BOX,
            "retinanet/retinanet_r50_fpn_1x_coco.py",
            deployed=False,
        ),
        Detector("Mask R-CNN TinyViT-5M deployed", _MASK_RCNN),
        Detector("Mask R-CNN TinyViT-5M module", _MASK_RCNN, deployed=False),
        Detector(
            "Mask R-CNN ResNet-50 module", _MASK_RCNN, {}, "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", deployed=False
        ),
    ]


def build_predictor(detector: Detector, img_size: int) -> Any:
    """Return a :class:`tinyvit.detection.inference.Predictor` with random weights.

    Args:
        detector: The detector to build.
        img_size: Longest side of an image.
    """
    import torch

    from ....detection import Predictor, apply_overrides, import_mmdet, load_config

    import_mmdet()
    cfg = load_config(detector.config, img_size=img_size)
    if detector.model is not None:
        from mmengine.hub import get_config

        cfg.model = get_config(f"mmdet::{detector.model}").model
    apply_overrides(cfg, detector.overrides)
    torch.manual_seed(0)
    return Predictor(cfg, None, deployed=detector.deployed)


class Stopwatch:
    """Times the parts of one detection.

    Args:
        predictor: A predictor of :func:`build_predictor`; its post-processing is timed from now on.
    """

    def __init__(self, predictor: Any) -> None:
        self.predictor = predictor
        self._inside, self._spent = 0, 0.0
        for module in predictor.model.modules():
            if hasattr(module, "predict_by_feat"):
                module.predict_by_feat = self._timed(module.predict_by_feat)

    def _timed(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._post():
                return run(*args, **kwargs)

        return timed

    @contextmanager
    def _post(self) -> Iterator[None]:
        """Count the time of the outermost call only."""
        start = time.perf_counter()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._spent += time.perf_counter() - start

    def detect(self, image: np.ndarray) -> dict[str, float]:
        """Return the seconds of each part, for one image (RGB, uint8, (height, width, 3))."""
        import torch

        self._spent = 0.0
        model = self.predictor.model
        start = time.perf_counter()
        with torch.inference_mode():
            batch = model.data_preprocessor(self.predictor.prepare(image), False)
            ready = time.perf_counter()
            model(**batch, mode="predict")
        end = time.perf_counter()
        return {"preprocess": ready - start, "network": end - ready - self._spent, "postprocess": self._spent}


def measure_detectors(images: Sequence[Path], img_size: int, rounds: int, threads: int) -> dict[str, Any]:
    """Measure all detectors in turns; in each round each of them detects on every image.

    Args:
        images: Photographs.
        img_size: Longest side that they are resized to.
        rounds: Number of rounds; the order of turns changes.
        threads: Processor threads.

    Returns:
        The document that :func:`main` writes.
    """
    import torch

    from tinyvit.core.images.decode import decode, read_file

    torch.set_num_threads(threads)
    allocator = tune_allocator()
    decoded = [np.asarray(decode(read_file(path))) for path in images]
    everyone = detectors()
    watches = [Stopwatch(build_predictor(one, img_size)) for one in track(everyone, "building")]
    for watch in watches:
        watch.detect(decoded[0])
    turns: list[list[Turn]] = [[] for _ in everyone]
    sensor, loads, order = ContentionSensor(), [], np.random.default_rng(0)
    for _ in track(range(rounds), "rounds"):
        for at in order.permutation(len(everyone)):
            sensor.start()
            turns[at].append([watches[at].detect(image) for image in decoded])
            loads.append(sensor.stop())
    known = [load for load in loads if load is not None]
    contention = summarise(known, [Limits().exceeded(load, threads) for load in known])
    return {
        "schema_version": 1,
        "command": f"python -m tinyvit.benchmarks.speed.studies.detectors --images DIR --limit {len(images)} "
        f"--img-size {img_size} --rounds {rounds} --threads {threads}",
        "machine": describe_machine(),
        "img_size": img_size,
        "threads": threads,
        "allocator": allocator,
        "pictures": len(decoded),
        "rounds": rounds,
        "contention": contention | {"sentence": sentence(contention)},
        "detectors": _rows(everyone, turns),
    }


def _rows(everyone: Sequence[Detector], turns: Sequence[Sequence[Turn]]) -> list[dict[str, Any]]:
    totals = [[[sum(parts.values()) for parts in turn] for turn in one] for one in turns]
    per_round = [[statistics.fmean(turn) for turn in one] for one in totals]
    rows = []
    for detector, one, total, means in zip(everyone, turns, totals, per_round, strict=True):
        against = paired_ratio(means, per_round[0])
        seconds = statistics.median(means)
        rows.append(
            {
                "name": detector.name,
                "images_per_second": 1 / seconds,
                "seconds": seconds,
                "seconds_interval": median_interval(total),
                "parts": {
                    part: statistics.median(statistics.fmean(parts[part] for parts in turn) for turn in one)
                    for part in PARTS
                },
                "p90_seconds": quantile([value for turn in total for value in turn], 0.9),
                "time_ratio": against.value,
                "time_ratio_interval": against.interval,
                "verdict": against.verdict if detector is not everyone[0] else "reference",
            }
        )
    return rows


def as_text(document: dict[str, Any]) -> str:
    """Return the table for a terminal."""
    lines = [f"{'detector':34s} {'img/s':>6s} {'ms':>8s}  preprocess  network  postprocess   time against the first"]
    for row in document["detectors"]:
        shares = [row["parts"][part] / sum(row["parts"].values()) for part in PARTS]
        low, high = row["time_ratio_interval"]
        speed = f"{row['images_per_second']:6.2f} {1e3 * row['seconds']:8.1f}"
        parts = f"{shares[0]:9.0%}  {shares[1]:7.0%}  {shares[2]:11.0%}"
        lines.append(f"{row['name']:34s} {speed}  {parts}   {row['time_ratio']:.2f}x ({low:.2f} to {high:.2f})")
    return "\n".join([*lines, document["contention"]["sentence"]])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    from ....detection import find_images

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--images", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--limit", type=int, default=4, help="how many of them")
    parser.add_argument("--img-size", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    images = sorted(find_images([options.images]))[: options.limit]
    if not images:
        raise InputError(f"{options.images} holds no image; give a folder of photographs")
    document = measure_detectors(images, options.img_size, options.rounds, options.threads)
    print(as_text(document), file=sys.stderr)
    write_json(options.out, document)


if __name__ == "__main__":
    sys.exit(run_script(main))
