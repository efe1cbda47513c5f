"""How far features and boxes of a detector move with the padding of its batch.

    python -m tinyvit.benchmarks.padding CONFIG --zero A.pth --masked B.pth --images DIR --out
    padding.json

Each photograph is detected alone, as MMDetection pads it (to a multiple of 32), and in batches with
images that are larger. Compared are the backbone's maps inside the photograph, and the boxes. The
two checkpoints are of one config, trained with ``pad_tokens='zero'`` and ``'masked'``; a third
detector runs the first one's weights with masks. The module's and the deployed backbone's time at
640 pixels is measured in turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinyvit.core.console import track
from tinyvit.core.errors import InputError
from tinyvit.core.files import write_json
from tinyvit.core.machine import describe_machine
from tinyvit.core.options import parse_settings

from .scripts import run_script, time_in_turns
from .statistics import paired_ratio

#: Pixels that a larger image adds to the sides of a batch.
EXTRA = (32, 320)
_SIDE, _ROUNDS = 640, 8


def build(config: str, weights: Path, pad_tokens: str, img_size: int, settings: dict[str, Any], deployed: bool) -> Any:
    """Return a :class:`tinyvit.detection.Predictor` of a trained detector."""
    from ..detection import Predictor, load_config, read_detector, set_classes

    cfg = load_config(config, img_size=img_size, overrides=settings | {"model.backbone.pad_tokens": pad_tokens})
    _, classes = read_detector(weights)
    if classes:
        set_classes(cfg, classes)
    return Predictor(cfg, weights, deployed=deployed)


def see(predictor: Any, image: np.ndarray, extra: int) -> tuple[list[np.ndarray], Any]:
    """Return the backbone's maps of an image, without its padding, and the detections.

    Args:
        predictor: The detector.
        image: RGB, uint8, (height, width, 3).
        extra: Pixels that the batch is larger than the image alone.
    """
    import torch

    model = predictor.model
    maps: list[Any] = []
    hook = model.backbone.register_forward_hook(lambda _module, _inputs, output: maps.extend(output))
    try:
        with torch.inference_mode():
            batch = model.data_preprocessor(predictor.prepare(image), False)
            batch["inputs"] = torch.nn.functional.pad(batch["inputs"], (0, extra, 0, extra))
            for sample in batch["data_samples"]:
                sample.set_metainfo({"batch_input_shape": tuple(batch["inputs"].shape[-2:])})
            (found,) = model(**batch, mode="predict")
    finally:
        hook.remove()
    height, width = found.img_shape
    inside = [
        one[0, :, : -(-height // stride), : -(-width // stride)].numpy()
        for one, stride in zip(maps, model.backbone.strides, strict=True)
    ]
    return inside, found.pred_instances


def moves(predictor: Any, images: Sequence[np.ndarray], extra: int, score: float) -> dict[str, Any]:
    """Return how far maps and boxes move in a batch that is larger by ``extra`` pixels.

    Args:
        predictor: The detector.
        images: The photographs.
        extra: Pixels.
        score: Boxes of this score or higher are followed.
    """
    shares: list[list[float]] = []
    boxes: list[tuple[float, float]] = []
    counted = 0
    for image in images:
        (alone, before), (padded, after) = see(predictor, image, 0), see(predictor, image, extra)
        shares.append([float(np.abs(a - b).mean() / np.abs(a).mean()) for a, b in zip(alone, padded, strict=True)])
        boxes += _follow(before[before.scores >= score], after)
        counted += int((after.scores >= score).sum())
    moved = [1 - overlap for overlap, _ in boxes]
    return {
        "extra": extra,
        "maps": [statistics.fmean(level) for level in zip(*shares, strict=True)],
        "boxes": len(boxes),
        "boxes_padded": counted,
        "moved": statistics.fmean(moved),
        "moved_most": max(moved),
        "score": statistics.fmean(change for _, change in boxes),
        "score_most": max(change for _, change in boxes),
    }


def _follow(before: Any, after: Any) -> list[tuple[float, float]]:
    """Return overlap (IoU) and change of score of each box and the one of its class that overlaps
    it most.
    """
    from torchvision.ops import box_iou

    found = []
    for box, label, score in zip(before.bboxes, before.labels, before.scores, strict=True):
        same = after[after.labels == label]
        overlaps = box_iou(box[None], same.bboxes)[0]
        best = int(overlaps.argmax()) if len(same) else None
        kept = (float(overlaps[best]), float(same.scores[best])) if best is not None else (0.0, 0.0)
        found.append((kept[0], abs(float(score) - kept[1])))
    return found


def times(predictors: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what masks cost: the time of a backbone with them over the time without.

    At 640 pixels windows are padded. The batch is image as a whole, or has two sizes.
    """
    import torch

    image, sizes = torch.randn(2, 3, _SIDE, _SIDE), torch.tensor([[_SIDE, _SIDE], [_SIDE - 160, _SIDE - 100]])
    found = {}
    for form in ("module", "deployed"):
        masked, zero = (predictors[f"{mode}, {form}"].model.backbone for mode in ("masked", "zero"))
        ways = {
            "zero": lambda _item, _round, run=zero: run(image),
            "masked": lambda _item, _round, run=masked: run(image),
            "masked with sizes": lambda _item, _round, run=masked: run(image, sizes),
        }
        with torch.inference_mode():
            seconds = time_in_turns(ways, 1, _ROUNDS, form)
        ratios = {name: paired_ratio(values, seconds["zero"]) for name, values in seconds.items() if name != "zero"}
        found[form] = {name: {"ratio": one.value, "interval": one.interval} for name, one in ratios.items()}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    import torch

    from tinyvit.core.images.decode import decode, read_file

    from ..detection import find_images

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("config")
    parser.add_argument("--zero", type=Path, required=True, help="a detector trained with pad_tokens='zero'")
    parser.add_argument("--masked", type=Path, required=True, help="the same, trained with 'masked'")
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="photographs, or folders of them")
    parser.add_argument("--img-size", type=int, default=320)
    parser.add_argument("--score", type=float, default=0.3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cfg-options", nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    files = sorted(find_images(options.images))
    if not files:
        raise InputError("--images holds no image; give photographs")
    images = [np.asarray(decode(read_file(path))) for path in files]
    settings = parse_settings(options.cfg_options, "--cfg-options")
    arms = {"zero": ("zero", options.zero), "masked": ("masked", options.masked)}
    arms["zero's weights, masked"] = ("masked", options.zero)
    predictors = {
        f"{name}, {form}": build(options.config, weights, mode, options.img_size, settings, form == "deployed")
        for name, (mode, weights) in arms.items()
        for form in ("module", "deployed")
    }
    rows = [
        {"detector": name, **moves(predictor, images, extra, options.score)}
        for name, predictor in track(predictors.items(), "detectors")
        for extra in EXTRA
    ]
    document = {
        "schema_version": 1,
        "command": f"python -m tinyvit.benchmarks.padding {options.config} --zero A.pth --masked B.pth --images DIR "
        f"--img-size {options.img_size} --score {options.score} --cfg-options {' '.join(options.cfg_options)}",
        "machine": describe_machine(),
        "images": len(images),
        "threads": options.threads,
        "strides": list(predictors["zero, module"].model.backbone.strides),
        "rows": rows,
        "times": times(predictors),
    }
    print(as_text(document), file=sys.stderr)
    write_json(options.out, document)


def as_text(document: dict[str, Any]) -> str:
    """Return the table of a document."""
    strides = "  ".join(f"stride {stride:2d}" for stride in document["strides"])
    lines = [f"{'detector':34s} extra  {strides}  1 - IoU (most)   score (most)"]
    for row in document["rows"]:
        maps = "  ".join(f"{share:9.1e}" for share in row["maps"])
        boxes = f"{row['moved']:.4f} ({row['moved_most']:.4f})  {row['score']:.4f} ({row['score_most']:.4f})"
        lines.append(f"{row['detector']:34s} {row['extra']:5d}  {maps}  {boxes}")
    for form, ways in document["times"].items():
        for name, one in ways.items():
            low, high = one["interval"]
            lines.append(f"{form}, {name}: {one['ratio']:.3f} of the time of zero ({low:.3f} to {high:.3f})")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_script(main))
