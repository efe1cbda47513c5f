"""Making recorded views against timm's own transforms: time per view, from image to model input.

    python -m tinyvit.benchmarks.distill.views --data imagenet-sample/images --out
    distill_views.json

Ours draws parameters from its counter-based streams and applies them; timm's transform draws and
applies in one. Both see the same decoded images in turns, in one thread. Up to the mixed view both
end in 8-bit pixels, except for ``tinyvit``, which both normalise, as timm erases after that. Our
mixed view makes its partner's view too, while timm mixes two views of its batch. The ratio is the
cost of being independent of the batch.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tinyvit.core.files import write_json
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.machine import environment
from tinyvit.core.results import plain

from ...backbones import Preprocess
from ...backbones.distill.augment import ViewSampler, apply
from ..scripts import run_script, time_in_turns
from ..statistics import paired_ratio

SCHEMA_VERSION = 1
_SIZE = (224, 224)
_RANDAUGMENT = "rand-m9-mstd0.5-inc1"


@dataclass(frozen=True)
class Case:
    """Two ways to the same kind of view.

    Args:
        sampler: Ours.
        timm: Arguments of timm's ``create_transform`` beyond the size.
        normalised: Whether both end in normalised floats, or in 8-bit pixels.
    """

    sampler: ViewSampler
    timm: dict[str, Any]
    normalised: bool = False

    def ours(self, decoded: list[Image.Image]) -> Callable[[int, int], Any]:
        """Return a function from ``(image, view)`` to our view."""
        count, normalise = len(decoded), Preprocess(_SIZE).normalize if self.normalised else np.asarray

        def unmixed(image: int, view: int) -> Any:
            return decoded[image], self.sampler.sample(image, view, decoded[image].size, count)

        def make(image: int, view: int) -> Any:
            pixels, params = unmixed(image, view)
            partner = None if params.mix is None else unmixed(params.mix.image, params.mix.view)
            return normalise(apply(pixels, params, _SIZE, partner))

        return make

    def theirs(self, decoded: list[Image.Image]) -> Callable[[int, int], Any]:
        """Return the same function by timm, which ignores the number of the view."""
        from timm.data import create_transform

        given = {"re_prob": 0.0, "color_jitter": None, **self.timm}
        transform: Any = create_transform(
            _SIZE[0], is_training=True, interpolation="bicubic", use_prefetcher=not self.normalised, **given
        )

        def make(image: int, view: int) -> Any:
            del view
            while True:
                try:
                    return transform(decoded[image])
                except ValueError:  # timm may keep 0 bits in posterize, which new Pillows reject: draw again
                    continue

        return make


CASES = {
    "crop-flip": Case(ViewSampler(), {}),
    "RandAugment": Case(ViewSampler(auto_augment=_RANDAUGMENT), {"auto_augment": _RANDAUGMENT}),
    "tinyvit": Case(
        ViewSampler.preset("tinyvit"), {"auto_augment": _RANDAUGMENT, "re_prob": 0.25, "re_mode": "pixel"}, True
    ),
    "three-augment and jitter": Case(
        ViewSampler.preset("deit3", mixup=0.0, cutmix=0.0), {"auto_augment": "3a", "color_jitter": 0.3}
    ),
    "deit, partner included": Case(ViewSampler.preset("deit"), {"auto_augment": _RANDAUGMENT}),
}


def measure(case: Case, decoded: list[Image.Image], rounds: int, name: str = "") -> dict[str, Any]:
    """Return the seconds of a view, the mean over all images per round; the order alternates."""
    makers = {"ours": case.ours(decoded), "timm": case.theirs(decoded)}
    seconds = time_in_turns(makers, len(decoded), rounds, name)
    ratio = paired_ratio(seconds["ours"], seconds["timm"])
    return {"time_ratio": plain(ratio), "seconds": seconds}


def main() -> None:
    """Parse the arguments, measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="images")
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("distill_views.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    np.random.seed(0)  # timm's transforms draw from all three
    torch.manual_seed(0)
    images = ImageFiles(given.data)
    decoded = [images.open(key) for key in list(images)[: given.pictures]]
    results = {name: measure(case, decoded, given.rounds, name) for name, case in CASES.items()}
    document = {
        "schema_version": SCHEMA_VERSION,
        "command": "python -m tinyvit.benchmarks.distill.views",
        "environment": environment(),
        "plan": {"pictures": len(decoded), "rounds": given.rounds, "size": list(_SIZE), "threads": 1},
        "results": results,
    }
    write_json(given.out, document)
    for name, result in results.items():
        low, high = result["time_ratio"]["interval"]
        print(f"{name}: ours / timm {result['time_ratio']['value']:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    sys.exit(run_script(main))
