"""Draws of the sampler have the distributions of timm's and torchvision's transforms."""

from __future__ import annotations

import functools
import math
import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment, random_erasing
from timm.data.mixup import Mixup, rand_bbox
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import ColorJitter as TorchJitter

from tinyvit.backbones.distill.augment import ViewSampler
from tinyvit.backbones.distill.augment.kernels import GRID
from tinyvit.backbones.distill.augment.operations import JITTER_PARTS, RAND_NAMES

DRAWS = 20_000
#: A right sampler fails a comparison with this probability; seeds are fixed, so it fails always or
#: never.
P_VALUE = 1e-6
NORMAL_QUANTILE = 4.7534  # at 1 - P_VALUE
IMAGES = 1000
TIMM_NAMES = {
    theirs: ours
    for names in (auto_augment._RAND_INCREASING_TRANSFORMS, auto_augment._RAND_TRANSFORMS)
    for theirs, ours in zip(names, RAND_NAMES, strict=True)
}


def same_numbers(ours, theirs) -> None:
    """Two-sample Kolmogorov-Smirnov test."""
    ours, theirs = np.sort(np.asarray(ours, float)), np.sort(np.asarray(theirs, float))
    grid = np.concatenate([ours, theirs])
    gaps = np.searchsorted(ours, grid, "right") / len(ours) - np.searchsorted(theirs, grid, "right") / len(theirs)
    limit = math.sqrt(-math.log(P_VALUE / 2) / 2 * (1 / len(ours) + 1 / len(theirs)))
    assert np.abs(gaps).max() < limit, f"{np.abs(gaps).max():.4f} apart; {limit:.4f} is allowed"


def same_counts(ours: Counter, theirs: Counter) -> None:
    """Two-sample chi-square test; its critical value by Wilson and Hilferty's formula."""
    names = sorted({*ours, *theirs}, key=str)
    table = np.array([[counts[name] for name in names] for counts in (ours, theirs)], float)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    assert expected.min() > 5, "too few draws for this test"
    freedom = len(names) - 1
    critical = freedom * (1 - 2 / (9 * freedom) + NORMAL_QUANTILE * math.sqrt(2 / (9 * freedom))) ** 3
    assert ((table - expected) ** 2 / expected).sum() < critical


@pytest.fixture(scope="module")
def drawn():
    sampler = ViewSampler.preset("deit", seed=2, color_jitter=(0.4, 0.3, 0.2, 0.1), scale=(0.2, 0.9))
    return [sampler.sample(index % IMAGES, index // IMAGES, (200, 150), IMAGES) for index in range(DRAWS)]


@pytest.fixture(autouse=True)
def seeded():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def test_the_tests_notice_a_difference():
    values = np.random.default_rng(0).random((2, DRAWS))
    same_numbers(*values)
    with pytest.raises(AssertionError, match="apart"):
        same_numbers(values[0], values[1] ** 1.1)
    same_counts(Counter(a=5000, b=5000), Counter(a=5100, b=4900))
    with pytest.raises(AssertionError):
        same_counts(Counter(a=5000, b=5000), Counter(a=5400, b=4600))


def test_crop_and_flip(drawn):
    image = Image.new("RGB", (200, 150))
    theirs = [RandomResizedCropAndInterpolation.get_params(image, (0.2, 0.9), (3 / 4, 4 / 3)) for _ in range(DRAWS)]
    for column, name in enumerate(("top", "left", "height", "width")):
        same_numbers([getattr(params, name) for params in drawn], [crop[column] for crop in theirs])
    same_numbers([p.width / p.height for p in drawn], [w / h for _, _, h, w in theirs])
    same_counts(Counter(p.flip for p in drawn), Counter(random.random() < 0.5 for _ in range(DRAWS)))


def timm_operations(policy: str) -> list[tuple[tuple[str, float], ...]]:
    """The operations of timm's RandAugment, ``(name, argument)`` of each operation applied."""
    transform = auto_augment.rand_augment_transform(policy, {"img_mean": (124, 116, 104)})

    def note(done, *arguments, name, **_):
        value = float(arguments[0]) if arguments else 0.0
        return (*done, (TIMM_NAMES[name], max(1.0, value) if name.startswith("Poster") else value))

    for operation in transform.ops:
        operation.aug_fn = functools.partial(note, name=operation.name)
    return [transform(()) for _ in range(DRAWS)]


def test_rand_augment(drawn):
    ours = [tuple((step.name, step.value) for step in params.operations) for params in drawn]
    theirs = timm_operations("rand-m9-mstd0.5-inc1")
    same_counts(*(Counter(tuple(name for name, _ in view) for view in side) for side in (ours, theirs)))
    for name in RAND_NAMES:
        values = [[value for view in side for found, value in view if found == name] for side in (ours, theirs)]
        same_numbers(*values)


@pytest.mark.parametrize("policy", ["rand-m7-n1-p0.9-mstd101-inc1", "rand-m12-mstd1-mmax15-p1"])
def test_other_policies(policy):
    sampler = ViewSampler(seed=4, auto_augment=policy)
    ours = [[(step.name, step.value) for step in sampler._rand(index, 0)] for index in range(DRAWS)]
    theirs = timm_operations(policy)
    same_counts(*(Counter(name for view in side for name, _ in view) for side in (ours, theirs)))
    for name in RAND_NAMES:
        same_numbers(*([value for view in side for found, value in view if found == name] for side in (ours, theirs)))


def test_colour_jitter(drawn):
    ranges = [(0.6, 1.4), (0.7, 1.3), (0.8, 1.2), (-0.1, 0.1)]
    theirs = [TorchJitter.get_params(*ranges) for _ in range(DRAWS)]
    for column, name in enumerate(JITTER_PARTS):
        same_numbers([getattr(p.jitter, name) for p in drawn], [draw[1 + column] for draw in theirs])
    orders = Counter(tuple(JITTER_PARTS[part] for part in draw[0].tolist()) for draw in theirs)
    same_counts(Counter(p.jitter.order for p in drawn), orders)


def test_colour_jitter_has_its_probability():
    sampler = ViewSampler(color_jitter=0.4, color_jitter_prob=0.3)
    count = sum(sampler._jitter(index, 0) is not None for index in range(DRAWS))
    assert abs(count - 0.3 * DRAWS) < NORMAL_QUANTILE * math.sqrt(DRAWS * 0.3 * 0.7)


def test_three_augment():
    transform = auto_augment.auto_augment_transform("3a", {"img_mean": (124, 116, 104)})
    sampler = ViewSampler.preset("deit3", seed=1)
    ours = [sampler._three(index, 0) for index in range(DRAWS)]

    def note(_, value, name, **__):
        return name, float(value)

    radius_limits = []

    def note_blur(_, factor, **__):
        radius_limits.append(factor)
        return "blur", random.uniform(0.1, 2.0 * factor)

    for step in (step for steps in transform.policy for step in steps):
        name = {"Solarize": "solarize", "Desaturate": "grayscale"}.get(step.name)
        step.aug_fn = functools.partial(note, name=name) if name else note_blur
    theirs = [transform(None) for _ in range(DRAWS)]
    assert {value for name, value in theirs if name == "solarize"} == {p.value for p in ours if p.name == "solarize"}
    assert {value for name, value in theirs if name == "grayscale"} == {1.0}
    assert set(radius_limits) == {1.0}
    same_counts(Counter(p.name for p in ours), Counter(name for name, _ in theirs))
    same_numbers([p.value for p in ours if p.name == "blur"], [value for name, value in theirs if name == "blur"])


class NotedErasing(list):
    """Stands for an image of GRID x GRID pixels and keeps the boxes that are written to."""

    def __setitem__(self, place, value):
        _, rows, columns = place
        self.append((columns.start, rows.start, columns.stop, rows.stop))


def test_erasing(drawn, monkeypatch):
    monkeypatch.setattr(random_erasing, "_get_pixels", lambda *args, **kwargs: None)
    erasing = random_erasing.RandomErasing(0.25, mode="pixel", device="cpu")
    theirs = NotedErasing()
    for _ in range(DRAWS):
        erasing._erase(theirs, 3, GRID, GRID, torch.float32)
    ours = [params.erase.box for params in drawn if params.erase]
    same_counts(
        Counter({True: len(ours), False: DRAWS - len(ours)}), Counter({True: len(theirs), False: DRAWS - len(theirs)})
    )
    for edge in range(4):
        same_numbers([box[edge] for box in ours], [box[edge] for box in theirs])
    same_numbers(*([(b[2] - b[0]) * (b[3] - b[1]) for b in side] for side in (ours, theirs)))
    same_numbers(*([(b[2] - b[0]) / (b[3] - b[1]) for b in side] for side in (ours, theirs)))
    seeds = [params.erase.seed for params in drawn if params.erase]
    same_numbers(seeds, np.random.randint(0, 1 << 32, len(seeds)))


def test_mixup_and_cutmix(drawn):
    mixing = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, mode="elem")
    lam, use_cutmix = mixing._params_per_elem(DRAWS)
    boxes = [rand_bbox((3, GRID, GRID), share) for share in lam[use_cutmix]]
    ours = {kind: [p.mix for p in drawn if p.mix.kind == kind] for kind in ("mixup", "cutmix")}
    counts = Counter(cutmix=int(use_cutmix.sum()), mixup=int((~use_cutmix).sum()))
    same_counts(Counter(p.mix.kind for p in drawn), counts)
    same_numbers([mix.lam for mix in ours["mixup"]], lam[~use_cutmix])
    for edge, at in enumerate((2, 0, 3, 1)):  # timm's order is top, bottom, left, right
        same_numbers([mix.box[edge] for mix in ours["cutmix"]], [box[at] for box in boxes])
    shares = [1 - (bottom - top) * (right - left) / GRID**2 for top, bottom, left, right in boxes]
    same_numbers([mix.lam for mix in ours["cutmix"]], shares)


@pytest.mark.parametrize("alpha", [0.1, 0.8, 1.0, 1.5, 4.0])
def test_lambda_is_beta_distributed(alpha):
    sampler = ViewSampler(mixup=alpha)
    ours = [sampler._mix(index, 0, 10).lam for index in range(4000)]
    # A record holds f32 numbers, of which many are 1 when alpha is small.
    same_numbers(ours, np.random.beta(alpha, alpha, DRAWS).astype(np.float32))


def test_mixing_has_its_probabilities():
    sampler = ViewSampler(mixup=0.8, cutmix=1.0, mix_prob=0.6, mix_switch_prob=0.25)
    kinds = Counter(mix.kind if mix else "" for mix in (sampler._mix(index, 0, 10) for index in range(DRAWS)))
    for kind, share in (("", 0.4), ("mixup", 0.45), ("cutmix", 0.15)):
        assert abs(kinds[kind] - share * DRAWS) < NORMAL_QUANTILE * math.sqrt(DRAWS * share * (1 - share))


def test_partners_are_other_images_each_as_likely(drawn):
    distances = Counter()
    for index, params in enumerate(drawn):
        image, view = index % IMAGES, index // IMAGES
        assert 0 <= params.mix.image < IMAGES
        assert params.mix.image != image
        assert params.mix.view == view
        distances[(params.mix.image - image) % IMAGES // 100] += 1
    same_counts(distances, Counter({part: 2000 - (part == 0) * 2 for part in range(10)}))


def test_interpolation_is_random_where_it_is_asked():
    sampler = ViewSampler(interpolation="random", auto_augment="rand-m9-n2-p1")
    drawn = [sampler.sample(index, 0, (200, 150)) for index in range(2000)]
    for found in (
        [params.interpolation for params in drawn],
        [step.interpolation for params in drawn for step in params.operations],
    ):
        share = found.count("bicubic") / len(found)
        assert abs(share - 0.5) < NORMAL_QUANTILE * 0.5 / math.sqrt(len(found))
