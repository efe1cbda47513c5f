"""Views: the generator's stream, the sampler's ranges, the record, and the pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from tinyvit.backbones.distill.augment import ViewParams, ViewSampler, apply, pixel_hash, uniforms
from tinyvit.backbones.errors import InputError

MASK = (1 << 64) - 1


def philox4x64(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 after the paper (Salmon et al., 2011), in plain integers."""
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        counter = [
            (second >> 64) ^ counter[1] ^ key[0],
            second & MASK,
            (first >> 64) ^ counter[3] ^ key[1],
            first & MASK,
        ]
        key = [(key[0] + 0x9E3779B97F4A7C15) & MASK, (key[1] + 0xBB67AE8584CAA73B) & MASK]
    return counter


def test_reference_generator_gives_the_published_vectors():
    # Known answers of Random123's kat_vectors for philox4x64-10.
    assert philox4x64([0] * 4, [0] * 2) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]


@pytest.mark.parametrize(("seed", "image", "view", "stream"), [(0, 0, 0, 0), (7, 14_197_121, 89, 3), (MASK, 5, 1, 0)])
def test_uniforms_are_the_documented_stream(seed, image, view, stream):
    key = [seed, 0x0074696E79766974]
    words = [word for block in (1, 2, 3) for word in philox4x64([block, image, view, stream], key)]
    expected = [(word >> 11) * 2.0**-53 for word in words]
    assert uniforms(seed, image, view, stream, 12).tolist() == expected


FIXED = [
    (111, 25, 365, 348, False),
    (84, 30, 272, 339, False),
    (95, 38, 249, 323, False),
    (90, 90, 298, 231, False),
]


def test_parameters_are_fixed_for_ever():
    sampler = ViewSampler(seed=3)
    drawn = [sampler.sample(image, view, (500, 375)) for image, view in ((0, 0), (0, 1), (1, 0), (12345, 67))]
    assert [(p.left, p.top, p.width, p.height, p.flip) for p in drawn] == FIXED


def test_sampled_crops_have_timms_distribution():
    from timm.data.transforms import RandomResizedCropAndInterpolation as TimmCrop

    image = Image.new("RGB", (200, 150))
    sampler = ViewSampler(seed=1, scale=(0.2, 0.9))
    ours = [sampler.sample(index, 0, image.size) for index in range(4000)]
    theirs = np.array([TimmCrop.get_params(image, (0.2, 0.9), (3 / 4, 4 / 3)) for _ in range(4000)])
    for name, column in (("top", 0), ("left", 1), ("height", 2), ("width", 3)):
        values = np.array([getattr(params, name) for params in ours])
        grid = np.arange(0, 201)
        gap = np.abs(
            np.searchsorted(np.sort(values), grid, side="right")
            - np.searchsorted(np.sort(theirs[:, column]), grid, side="right")
        ).max()
        # Two-sample Kolmogorov-Smirnov at p = 1e-6: sqrt(-ln(p / 2) / n).
        assert gap / 4000 < math.sqrt(-math.log(5e-7) / 4000), name
    flips = sum(params.flip for params in ours)
    assert abs(flips - 2000) < 5 * math.sqrt(1000)


def test_crops_stay_inside_any_image():
    sampler = ViewSampler(seed=0)
    for width, height in ((1, 1), (1, 700), (700, 1), (3, 2), (640, 480)):
        for index in range(50):
            params = sampler.sample(index, 0, (width, height))
            assert 0 <= params.left <= width - params.width
            assert 0 <= params.top <= height - params.height
            assert params.width >= 1
            assert params.height >= 1


def test_record_survives_packing():
    params = ViewSampler(seed=9, interpolation="bilinear").sample(4, 2, (640, 480))
    assert len(params.pack()) == 32
    assert ViewParams.unpack(params.pack()) == params


def test_record_bytes_are_the_documented_ones():
    params = ViewParams(1, 2, 3, 4, (500, 375), flip=True)
    expected = bytes([1, 0, 1, 1]) + b"".join(number.to_bytes(4, "little") for number in (1, 2, 3, 4, 500, 375, 0))
    assert params.pack() == expected


@pytest.mark.parametrize("change", [(0, 2), (1, 7), (12, 0)])
def test_damaged_record_is_refused(change):
    data = bytearray(ViewParams(1, 2, 3, 4, (500, 375)).pack())
    data[change[0]] = change[1]
    with pytest.raises(InputError, match="view record"):
        ViewParams.unpack(bytes(data))


def test_apply_is_crop_resize_mirror():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    params = ViewParams(5, 3, 16, 12, (40, 30), flip=True)
    view = np.asarray(apply(Image.fromarray(pixels), params, (12, 16)))
    # At the crop's own size the resize does nothing.
    assert np.array_equal(view, pixels[3:15, 5:21][:, ::-1])


def test_pixels_outside_the_crop_play_no_part():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    params = ViewParams(5, 3, 16, 12, (40, 30))
    other = np.zeros_like(pixels)
    other[3:15, 5:21] = pixels[3:15, 5:21]
    views = [np.asarray(apply(Image.fromarray(source), params, (7, 9))) for source in (pixels, other)]
    assert views[0].shape == (7, 9, 3)
    assert np.array_equal(*views)
    assert pixel_hash(views[0]) == pixel_hash(views[1]) != pixel_hash(views[0][::-1])


def test_image_of_another_size_is_refused():
    with pytest.raises(InputError, match=r"decodes to 40 x 31 .* made from 40 x 30"):
        apply(Image.new("RGB", (40, 31)), ViewParams(0, 0, 4, 4, (40, 30)), (8, 8))


def test_centre_view_is_the_same_every_time():
    sampler = ViewSampler(kind="centre")
    assert sampler.sample(0, 0, (400, 300)) == sampler.sample(9, 5, (400, 300))
    params = sampler.sample(0, 0, (400, 300))
    assert (params.left, params.top, params.width, params.height) == (69, 19, 262, 262)


@pytest.mark.parametrize("wrong", [{"scale": (0.0, 1.0)}, {"scale": (0.5, 0.4)}, {"flip": 2.0}, {"kind": "other"}])
def test_impossible_sampler_is_refused(wrong):
    with pytest.raises(InputError):
        ViewSampler(**wrong)
