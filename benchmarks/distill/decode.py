"""Decoding JPEG files: the rule's way against others, in time and in pixels.

    python -m tinyvit.benchmarks.distill.decode --data imagenet-sample/images --out decode.json

The rule's way is Pillow's decoder (:mod:`tinyvit.core.images.decode`). The others are libjpeg-turbo
through torchvision, and Pillow with ``draft``, which scales by 1/2, 1/4 or 1/8 within the cosine
transform. Each way is timed alone and with the evaluation's crop of 224 px behind it, in one
thread, in turns. A store's hashes allow another way only where all pixels are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tinyvit.core.errors import InputError
from tinyvit.core.files import write_json
from tinyvit.core.images.decode import decode, is_plain
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.images.preprocess import Preprocess
from tinyvit.core.machine import environment
from tinyvit.core.results import plain

from ..scripts import run_script, time_in_turns
from ..statistics import paired_ratio

SCHEMA_VERSION = 1
RULE_WAY = "Pillow"
_CROP = Preprocess()
#: The side to which the crop resizes the shorter side of an image: no smaller one is drafted.
_WANTED = 236


def with_torchvision(data: bytes) -> Image.Image:
    """Return an image by libjpeg-turbo, as torchvision calls it."""
    from torchvision.io import ImageReadMode, decode_jpeg

    pixels: Any = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def with_draft(data: bytes) -> Image.Image:
    """Return an image scaled within the cosine transform, but not below the crop's size."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (_WANTED, _WANTED))
    return image.convert("RGB")


WAYS: dict[str, Callable[[bytes], Image.Image]] = {
    RULE_WAY: decode,
    "torchvision": with_torchvision,
    "Pillow, draft": with_draft,
}


@dataclass(frozen=True)
class Step:
    """A part of the way from bytes to an input.

    Args:
        name: Its name in the result.
        after: Applied to the decoded image.
    """

    name: str
    after: Callable[[Image.Image], Image.Image]


STEPS = (Step("decode", lambda image: image), Step("decode and crop", _CROP.crop))


def choose(images: ImageFiles, count: int) -> list[bytes]:
    """Return the first JPEG files that all ways read by one rule: upright, grey or RGB.

    Raises:
        InputError: There is none.
    """
    found: list[bytes] = []
    for key in images:
        data = images.read(key)
        if is_plain(data):
            with Image.open(io.BytesIO(data)) as opened:
                if opened.format == "JPEG" and opened.mode in ("RGB", "L"):
                    found.append(data)
        if len(found) == count:
            break
    if not found:
        raise InputError(f"{images.root} holds no upright JPEG file, grey or RGB; give photographs")
    return found


def compare(files: list[bytes], way: str, step: Step) -> dict[str, float]:
    """Return how the pixels of a way differ from the rule's, in levels of 255.

    Returns:
        ``same``: the share of images with the same hash; ``largest`` difference of a pixel; and the
        ``mean`` difference. Where the sizes differ, only ``same`` (0).
    """
    same, largest, means = 0, 0, []
    for data in files:
        ours, theirs = (np.asarray(step.after(WAYS[name](data)), np.int16) for name in (RULE_WAY, way))
        same += hashlib.blake2b(ours.tobytes()).digest() == hashlib.blake2b(theirs.tobytes()).digest()
        if ours.shape == theirs.shape:
            distance = np.abs(ours - theirs)
            largest, means = max(largest, int(distance.max())), [*means, float(distance.mean())]
    whole = {"largest": largest, "mean": float(np.mean(means))} if len(means) == len(files) else {}
    return {"same": same / len(files), **whole}


def measure(files: list[bytes], step: Step, rounds: int) -> dict[str, Any]:
    """Return seconds per image of each way and round, ratios to the rule's way, and pixels."""

    turns = {name: lambda item, _, way=way: step.after(way(files[item])) for name, way in WAYS.items()}
    seconds = time_in_turns(turns, len(files), rounds, step.name)
    others = [way for way in WAYS if way != RULE_WAY]
    return {
        "time_ratio": {way: plain(paired_ratio(seconds[way], seconds[RULE_WAY])) for way in others},
        "pixels": {way: compare(files, way, step) for way in others},
        "seconds": seconds,
    }


def main() -> None:
    """Parse the arguments, measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="photographs")
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("decode.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    files = choose(ImageFiles(given.data), given.pictures)
    results = {step.name: measure(files, step, given.rounds) for step in STEPS}
    document = {
        "schema_version": SCHEMA_VERSION,
        "command": "python -m tinyvit.benchmarks.distill.decode",
        "environment": environment(),
        "plan": {"pictures": len(files), "rounds": given.rounds, "size": list(_CROP.size), "threads": 1},
        "results": results,
    }
    write_json(given.out, document)
    for name, result in results.items():
        for way, ratio in result["time_ratio"].items():
            low, high = ratio["interval"]
            same = result["pixels"][way]["same"]
            print(f"{name}: {way} / {RULE_WAY} {ratio['value']:.2f} ({low:.2f} to {high:.2f}), {same:.0%} same pixels")


if __name__ == "__main__":
    sys.exit(run_script(main))
