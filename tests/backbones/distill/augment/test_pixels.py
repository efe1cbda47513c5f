"""Pixels of the operations: timm's and torchvision's, and the same view at every size."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from timm.data import auto_augment
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import functional

from tinyvit.backbones.distill.augment import (
    ColorJitter,
    Erase,
    Mix,
    RandOperation,
    ThreeAugment,
    ViewParams,
    ViewSampler,
    apply,
    kernels,
    mixing,
)
from tinyvit.backbones.distill.augment.operations import JITTER_ORDERS, JITTER_PARTS, RAND_NAMES, single
from tinyvit.backbones.distill.augment.policy import level_value
from tinyvit.core.errors import InputError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TABLE_HASH = "73b3acbba8bc313f89cef03f57f486f0e17b301036aab22d4628b22afd98acde"
NOISE = [168, 191, 90, 169, 65, 154, 179, 146, 113, 83, 84, 81]
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def scene(side: int = 224, seed: int = 0) -> Image.Image:
    """Return an image like a photograph: sky, ground, coloured things with edges, and grain."""
    rng = np.random.default_rng(seed)
    rows = np.linspace(0, 1, side)[:, None, None]
    pixels = (1 - rows) * [90, 140, 220] + rows * [70, 60, 30]
    image = Image.fromarray(np.broadcast_to(pixels, (side, side, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        left, top = rng.integers(0, side * 3 // 4, 2).tolist()
        width, height = rng.integers(side // 10, side // 3, 2).tolist()
        colour = tuple(rng.integers(0, 256, 3).tolist())
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((left, top, left + width, top + height), fill=colour)
    grain = rng.normal(0, 6, (side, side, 3))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def whole(side: int = 224, **changes) -> ViewParams:
    return ViewParams(0, 0, side, side, (side, side), **changes)


def same(ours: Image.Image, theirs: Image.Image) -> bool:
    return np.array_equal(np.asarray(ours), np.asarray(theirs))


# --- operations as timm and torchvision have them -----------------------------


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("at", range(15), ids=RAND_NAMES)
def test_rand_augment_operations_give_timms_pixels(at, increasing, monkeypatch):
    names = auto_augment._RAND_INCREASING_TRANSFORMS if increasing else auto_augment._RAND_TRANSFORMS
    name, theirs = RAND_NAMES[at], names[at]
    image = scene()
    changed = 0
    for level in (0.0, 2.5, 5.0, 8.3, 9.0, 10.0):
        for negative, interpolation in ((False, "bicubic"), (True, "bilinear")):
            monkeypatch.setattr(random, "random", lambda negative=negative: 0.9 if negative else 0.1)
            to_argument = auto_augment.LEVEL_TO_ARG[theirs]
            arguments = to_argument(level, {}) if to_argument else ()
            if name == "posterize":  # Pillow 13 refuses 0 bits
                arguments = (max(1, arguments[0]),)
            value = level_value(name, level, increasing, negative)
            assert value == (pytest.approx(arguments[0], rel=1e-12) if arguments else 0)
            # A record holds f32 numbers.
            arguments = [single(number) if isinstance(number, float) else number for number in arguments]
            expected = auto_augment.NAME_TO_OP[theirs](
                image, *arguments, fillcolor=(124, 116, 104), resample=FILTERS[interpolation]
            )
            view = RandOperation(name, value, interpolation)(image)
            assert same(view, expected), f"{name} at {level}"
            changed += not same(view, image)
    assert changed >= 6


def test_rand_augment_gives_timms_pixels_of_photographs(test_data):
    paths = sorted((test_data / "imagenet-sample" / "images").rglob("*.*"))[::40][:4]
    assert paths
    for path in paths:
        image = kernels.resized_crop(Image.open(path).convert("RGB"), (20, 10, 180, 150), (224, 224), "bicubic")
        for name, theirs in zip(RAND_NAMES, auto_augment._RAND_INCREASING_TRANSFORMS, strict=True):
            value = single(level_value(name, 9.3, True, negative=True))
            arguments = [int(value) if name in ("posterize", "solarize", "solarize_add") else value]
            expected = auto_augment.NAME_TO_OP[theirs](
                image,
                *(arguments if auto_augment.LEVEL_TO_ARG[theirs] else ()),
                fillcolor=(124, 116, 104),
                resample=FILTERS["bicubic"],
            )
            assert same(RandOperation(name, value)(image), expected), f"{name} of {path.name}"


def test_three_augment_gives_timms_pixels():
    image = scene()
    assert same(ThreeAugment("grayscale")(image), auto_augment.desaturate(image, 1.0))
    assert same(ThreeAugment("solarize", 128)(image), auto_augment.solarize(image, 128))
    for radius in (0.1, 0.7, 2.0):
        assert same(ThreeAugment("blur", radius)(image), auto_augment.gaussian_blur(image, single(radius)))


@pytest.mark.parametrize("order", JITTER_ORDERS[::7])
def test_colour_jitter_gives_torchvisions_pixels(order):
    values = {"brightness": 1.3, "contrast": 0.8, "saturation": 1.6, "hue": -0.2}
    expected = image = scene()
    for name in order:
        adjust = getattr(functional, f"adjust_{name}")
        expected = adjust(expected, single(values[name]))
    jitter = ColorJitter(*(values[name] for name in JITTER_PARTS), order)
    assert same(jitter(image), expected)
    assert same(ColorJitter(order=order)(image), image)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.003, 0.25, 0.5])
def test_hue_gives_torchvisions_pixels(turn):
    assert same(kernels.shift_hue(scene(), turn), functional.adjust_hue(scene(), turn))


def test_constant_erasing_covers_what_timm_covers(monkeypatch):
    image = scene()
    numbers = iter([0.25, 0.2])
    monkeypatch.setattr(random, "uniform", lambda low, high: next(numbers))
    monkeypatch.setattr(random, "randint", lambda low, high: 40)
    pixels = (functional.to_tensor(image) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    erased = RandomErasing(1.1, mode="const", device="cpu")(pixels)
    colours = (erased * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]) * 255
    expected = colours.round().to(torch.uint8).permute(1, 2, 0).numpy()
    rows = np.flatnonzero((expected == (124, 116, 104)).all(2).sum(1) > 50)
    columns = np.flatnonzero((expected == (124, 116, 104)).all(2).sum(0) > 50)
    pixel_edges = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    box = tuple(round(int(edge) * kernels.GRID / 224) for edge in pixel_edges)
    assert np.array_equal(np.asarray(Erase(box, "const")(image)), expected)


def test_noise_is_the_documented_one():
    table = kernels.noise_table()
    assert table.shape == (3, 256)
    assert hashlib.sha256(table.tobytes()).hexdigest() == TABLE_HASH
    assert kernels.noise(0xDEADBEEF, 2, 2).reshape(-1).tolist() == NOISE


def test_noise_looks_like_timms():
    ours = kernels.noise(7, 200, 200).reshape(-1, 3).astype(float)
    theirs = torch.randn((40_000, 3), generator=torch.Generator().manual_seed(0)).numpy()
    theirs = np.clip(np.rint(255 * (theirs * STD + MEAN)), 0, 255)
    assert np.abs(ours.mean(0) - theirs.mean(0)).max() < 1.5
    assert np.abs(ours.std(0) / theirs.std(0) - 1).max() < 0.015
    assert np.abs(np.corrcoef(ours.T) - np.eye(3)).max() < 0.02


def test_erasing_modes():
    image = scene()
    box = (0, 0, kernels.GRID // 2, kernels.GRID)
    colours = {}
    for mode in ("const", "rand", "pixel"):
        pixels = np.asarray(Erase(box, mode, 3)(image))
        assert np.array_equal(pixels[:, 112:], np.asarray(image)[:, 112:])
        colours[mode] = len(np.unique(pixels[:, :112].reshape(-1, 3), axis=0))
    assert colours["const"] == colours["rand"] == 1
    assert colours["pixel"] > 10_000
    assert same(Erase(box, "pixel", 3)(image), Erase(box, "pixel", 3)(image))
    assert not same(Erase(box, "pixel", 3)(image), Erase(box, "pixel", 4)(image))
    assert same(Erase((5, 5, 5, 9), "const")(image), image)


# --- mixing -------------------------------------------------------------------


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 0.999, 1.0])
def test_mixup_is_the_weighted_mean(lam):
    one, other = scene(), scene(seed=1)
    mixed = np.asarray(mixing.mixup(one, other, lam)).astype(float)
    exact = lam * np.asarray(one).astype(float) + (1 - lam) * np.asarray(other).astype(float)
    assert np.abs(mixed - exact).max() <= 0.505


def test_cutmix_is_the_partners_box():
    one, other = np.asarray(scene()), np.asarray(scene(seed=1))
    box = (0, kernels.GRID // 4, kernels.GRID // 2, kernels.GRID)
    mixed = np.asarray(mixing.cutmix(Image.fromarray(one), Image.fromarray(other), box))
    expected = one.copy()
    expected[56:, :112] = other[56:, :112]
    assert np.array_equal(mixed, expected)


def test_partners_view_is_its_own_without_mixing():
    one, other = scene(), scene(96, seed=1)
    partner = ViewParams(
        3, 5, 60, 70, (96, 96), flip=True, operations=(RandOperation("invert"),), mix=Mix("mixup", 0, 0, 0.5)
    )
    params = whole(mix=Mix("mixup", 5, 0, 0.25), operations=(RandOperation("solarize", 128),))
    expected = mixing.mixup(
        apply(one, params.unmixed(), (64, 64)), apply(other, replace(partner, mix=None), (64, 64)), 0.25
    )
    assert same(apply(one, params, (64, 64), (other, partner)), expected)
    with pytest.raises(InputError, match="mixed with image 5, view 0, which is not given"):
        apply(one, params, (64, 64))


# --- the same view at every size ----------------------------------------------

#: Operations whose curve depends on single pixels, or has a step: they and averaging do not
#: commute.
NOT_LINEAR = ("auto_contrast", "equalize", "posterize", "solarize", "solarize_add")
VIEWS = {
    "plain": {},
    **{
        name: {"operations": (RandOperation(name, level_value(name, 9.0, True, False)),)}
        for name in RAND_NAMES
        if name != "sharpness"
    },
    "blur": {"three": ThreeAugment("blur", 2.0)},
    "grayscale": {"three": ThreeAugment("grayscale")},
    "jitter": {"jitter": ColorJitter(1.3, 0.7, 1.4, 0.1)},
    "erase": {"erase": Erase((10_000, 20_000, 40_000, 60_000), "const")},
}


def smoothed(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(picture.resize(size, Image.Resampling.BOX)).astype(float)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_student_sees_the_teachers_view(name, size):
    """Both are compared after reduction to few pixels.

    Sizes and shapes differ from the teacher's 224 x 224.
    """
    image, params = scene(320), whole(320, **VIEWS[name])
    teacher, student = apply(image, params, (224, 224)), apply(image, params, size)
    gap = np.abs(smoothed(teacher, (32, 32)) - smoothed(student, (32, 32))).mean()
    assert gap < (4.0 if name in NOT_LINEAR else 1.8)


def test_everything_at_once_is_fixed_for_ever():
    """Pixels of every operation in one view; another Pillow may change them."""
    image, other = scene(), scene(160, seed=1)
    for preset in ("deit", "deit3"):
        sampler = ViewSampler.preset(preset, seed=1)
        for index in range(20):
            params = sampler.sample(index, 0, image.size, 50)
            partner = (other, sampler.sample(params.mix.image, 0, other.size, 50))
            views = [np.asarray(apply(image, params, (48, 40), partner)) for _ in range(2)]
            unpacked = [ViewParams.unpack(record.pack()) for record in (params, partner[1])]
            views.append(np.asarray(apply(image, unpacked[0], (48, 40), (other, unpacked[1]))))
            assert views[0].shape == (48, 40, 3)
            assert np.array_equal(views[0], views[1])
            assert np.array_equal(views[0], views[2])
