"""Views: the generator's stream, the sampler's ranges, the record, and the pixels."""

from __future__ import annotations

import math
import random
import statistics
import struct

import numpy as np
import pytest
from PIL import Image

from tinyvit.backbones.distill.augment import (
    ColorJitter,
    Erase,
    Mix,
    RandOperation,
    ThreeAugment,
    ViewParams,
    ViewSampler,
    apply,
    pack_many,
    pixel_hash,
    uniforms,
)
from tinyvit.backbones.distill.augment.streams import Stream, exponential, logarithm, normal_quantile, raw_words
from tinyvit.core.errors import InputError

MASK = (1 << 64) - 1
#: Words 17, 0, 1 and 4 of stream 1 of seed 3, image 12345, view 67.
WORDS = [0xB1B4867623763923, 0x10BDB405FFCEDEA3, 0x3A63DB858FB61366, 0xB6638CE33845A243]
#: Logarithm and exponential of 0.3, 1.7, 1e-9 and 0.999; normal quantiles of 0.4, 0.01 and 1e-14.
BITS = [
    *("-0x1.34378fcbda721p+0", "0x1.599058c8c1a96p+0"),
    *("0x1.0fae81914a991p-1", "0x1.5e552770df8a6p+2"),
    *("-0x1.4b927f32bffb8p+4", "0x1.000000044b830p+0"),
    *("-0x1.064670d979b73p-10", "0x1.5b97a17d41193p+1"),
    *("-0x1.036d6c4a04b5ap-2", "-0x1.29c5c4630ff0ep+1", "-0x1.e9a3e40341034p+2"),
]
#: Records of seed 3 of images 0, 0 and 12345 of 20,000, views 0, 1 and 67, each image of 500 x 375
#: pixels.
PLACES = [(0, 0), (0, 1), (12345, 67)]
RECORDS = {
    "deit": [
        "020000016f0019006d015c01f401770102020000070201010000c6420000000059ee1f545c2a9277e2e968b5"
        "f60d000000000000417b7a3fa82490693e4a268f",
        "0200000154001e0010015301f401770100020000000000000000000000000000000000000000000000000000"
        "7126000001000000787c3c3fd33cd1024ac04886",
        "020000015a005a002a01e700f401770100010000010001000000000000000000000000000000000000000000"
        "c713000043000000bd31093f00000000ffffffff",
    ],
    "deit3": [
        "020000016f0019006d015c01f401770100020317000000000000000000000000000000000000000000000000"
        "f60d000000000000417b7a3fa82490693e4a268f1e69f33e6a637a3f6c02393ffd184c3f00000000",
        "0200000154001e0010015301f401770100020112000000000000000000000000000000000000000000000000"
        "7126000001000000787c3c3fd33cd1024ac04886000000004b77943f8d0c663f248da23f00000000",
        "020000015a005a002a01e700f40177010001010d000000000000000000000000000000000000000000000000"
        "c713000043000000bd31093f00000000ffffffff00000000cfb04d3f7304433f8686873f00000000",
    ],
}


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


def test_words_of_a_stream_are_fixed_for_ever():
    stream = Stream(3, 12345, 67, 1)
    assert [stream.word(at) for at in (17, 0, 1, 4)] == WORDS
    assert stream.uniform(0) == (WORDS[1] >> 11) / 2**53
    assert stream.open_uniform(0) == ((WORDS[1] >> 12) + 0.5) / 2**52
    assert stream.below(0, 15) == WORDS[1] * 15 // 2**64


def test_noise_words_are_not_those_of_parameters():
    first = philox4x64([1, 0, 0, 0], [9, 0x006E6F6973650000])
    assert raw_words((9, 0x006E6F6973650000), (0, 0, 0), 4).tolist() == first
    assert uniforms(9, 0, 0, 0, 1)[0] != (first[0] >> 11) * 2.0**-53


def test_logarithm_exponential_and_quantile_are_right():
    draw = random.Random(0)
    for _ in range(2000):
        x = draw.uniform(0, 1) ** 4 + 1e-15
        assert logarithm(x) == pytest.approx(math.log(x), rel=1e-15, abs=1e-15)
        power = draw.uniform(-600, 600)
        assert exponential(power) == pytest.approx(math.exp(power), rel=5e-16)
        assert normal_quantile(x / 2) == pytest.approx(statistics.NormalDist().inv_cdf(x / 2), rel=1e-14, abs=1e-14)
    assert normal_quantile(0.75) == -normal_quantile(0.25)


def test_logarithm_exponential_and_quantile_are_fixed_to_the_last_bit():
    """Their bits decide records; another platform's C library must not change them."""
    points = [0.3, 1.7, 1e-9, 0.999]
    found = [function(x).hex() for x in points for function in (logarithm, exponential)]
    found += [normal_quantile(p).hex() for p in (0.4, 0.01, 1e-14)]
    assert found == BITS


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


@pytest.mark.parametrize("preset", RECORDS)
def test_records_are_fixed_for_ever(preset):
    sampler = ViewSampler.preset(preset, seed=3)
    drawn = [sampler.sample(*place, (500, 375), 20_000).pack(sampler.record_bytes).hex() for place in PLACES]
    assert drawn == RECORDS[preset]


def test_an_added_purpose_moves_no_other():
    plain, full = ViewSampler(seed=3), ViewSampler.preset("deit", seed=3, color_jitter=0.4)
    erased = ViewSampler(seed=3, erase_prob=0.25)
    for index in range(50):
        views = [sampler.sample(index, 1, (500, 375), 60) for sampler in (plain, full, erased)]
        assert len({(*view.crop, view.flip) for view in views}) == 1
        assert views[1].erase == views[2].erase


def test_a_view_without_its_partner_is_the_sampler_without_mixing():
    mixed, plain = ViewSampler.preset("deit", seed=3), ViewSampler.preset("tinyvit", seed=3)
    for index in range(20):
        assert mixed.sample(index, 1, (500, 375), 60).unmixed() == plain.sample(index, 1, (500, 375))
    assert mixed.sample(0, 0, (500, 375), images=1).mix is None
    with pytest.raises(InputError, match="number of images"):
        mixed.sample(0, 0, (500, 375))


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
    assert len(params.pack()) == 84
    assert ViewParams.unpack(params.pack()) == params


def test_record_bytes_are_the_documented_ones():
    params = ViewParams(
        *(1, 2, 3, 4, (500, 375)),
        flip=True,
        operations=(RandOperation("rotate", -27.5, "bilinear"), RandOperation("equalize")),
        three=ThreeAugment("blur", 1.5),
        jitter=ColorJitter(0.75, 1.25, 1.5, -0.125, ("hue", "saturation", "contrast", "brightness")),
        erase=Erase((10, 20, 30, 65535), "pixel", 0xDEADBEEF),
        mix=Mix("cutmix", 77, 3, 0.25, (0, 1, 2, 3)),
    )
    expected = struct.pack(
        "<4B 6H 4B 4B 2f I 4H 2I f 4H f 4f",
        *(2, 0, 1, 1),
        *(1, 2, 3, 4, 500, 375),
        *(2, 2, 3, 24),
        *(4, 2, 0, 1),
        *(-27.5, 0.0),
        *(0xDEADBEEF, 10, 20, 30, 65535),
        *(77, 3, 0.25, 0, 1, 2, 3),
        *(1.5, 0.75, 1.25, 1.5, -0.125),
    )
    assert params.pack() == expected
    assert ViewParams.unpack(expected) == params


def test_record_ends_with_the_last_section_that_is_used():
    params = ViewParams(1, 2, 3, 4, (500, 375), erase=Erase((1, 2, 3, 4), "const"))
    assert params.pack(44) == params.pack()[:44]
    assert ViewParams.unpack(params.pack(44)) == params
    with pytest.raises(InputError, match="does not fit into 32 bytes"):
        params.pack(32)


@pytest.mark.parametrize(("preset", "size"), [("crop-flip", 20), ("tinyvit", 44), ("deit", 64), ("deit3", 84)])
def test_presets_and_the_bytes_of_their_records(preset, size):
    sampler = ViewSampler.preset(preset, seed=5)
    assert sampler.record_bytes == sampler.to_dict()["record_bytes"] == size
    for image in range(200):
        params = sampler.sample(image, 1, (640, 480), images=300)
        assert ViewParams.unpack(params.pack(size)) == params


def test_unknown_preset_is_refused_with_the_close_one():
    with pytest.raises(InputError, match="did you mean tinyvit"):
        ViewSampler.preset("tinyvitt")


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, 1), (0, 3), (1, 7), (2, 2), (3, 2), (8, 0), (16, 4), (17, 3), (18, 4), (19, 25), (20, 16), (22, 2)],
)
def test_damaged_record_is_refused(offset, value):
    data = bytearray(ViewParams(1, 2, 3, 4, (500, 375), operations=(RandOperation("invert"),)).pack())
    data[offset] = value
    if offset == 8:
        data[9] = 0
    with pytest.raises(InputError, match="view record"):
        ViewParams.unpack(bytes(data))


@pytest.mark.parametrize("length", [0, 19, 85])
def test_record_of_impossible_length_is_refused(length):
    with pytest.raises(InputError, match="view record"):
        ViewParams.unpack(ViewParams(1, 2, 3, 4, (500, 375)).pack().ljust(length, b"\0")[:length])


def test_image_too_large_for_a_record_is_refused():
    with pytest.raises(InputError, match="65536 x 4 pixels does not fit"):
        ViewParams(1, 2, 3, 1, (65536, 4)).pack()


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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scale": (0.0, 1.0)}, "scale.0 must be greater than 0"),
        ({"scale": (0.5, 0.4)}, "crop scale"),
        ({"ratio": (0.0, 1.0)}, "ratio.0 must be greater than 0"),
        ({"flip": 2.0}, "flip must be at most 1, not 2.0"),
        ({"kind": "other"}, "kind must be 'random' or 'centre', not 'other'"),
        ({"interpolation": "nearest"}, "interpolation must be .* not 'nearest'"),
        ({"auto_augment": "augmix-m5"}, "augmix"),
        ({"auto_augment": "rand-m9-n3"}, "two operations"),
        ({"auto_augment": "rand-m9-tweights"}, "tweights"),
        ({"color_jitter": (0.1, 0.2)}, "three or four"),
        ({"color_jitter": -0.1}, "color_jitter"),
        ({"color_jitter": (0.1, 0.1, 0.1, 0.6)}, "hue"),
        ({"erase_prob": -0.1}, "erase_prob"),
        ({"erase_mode": "noise"}, "erase_mode"),
        ({"mixup": -1.0}, "mixup"),
        ({"mix_prob": 1.5}, "mix_prob"),
        ({"kind": "centre", "erase_prob": 0.1}, "allows no erase augmentation"),
        ({"seed": -1}, "seed"),
    ],
)
def test_impossible_sampler_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        ViewSampler(**wrong)


@pytest.mark.parametrize(
    "sampler",
    [
        ViewSampler(scale=(0.5, 1.0)),
        ViewSampler(seed=2**64 - 1, interpolation="bilinear"),
        ViewSampler(ratio=(1.9, 2.0), scale=(0.9, 1.0)),
        ViewSampler(interpolation="random"),
        ViewSampler(erase_prob=0.5),
        ViewSampler(kind="centre"),
    ],
)
@pytest.mark.parametrize("view", [0, 89])
def test_many_records_at_once_are_those_drawn_one_by_one(sampler, view):
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 700, (600, 2))
    sizes[::7], sizes[1], sizes[2] = (5000, 3), (1, 1), (65535, 65535)
    images = rng.integers(0, 2**33, len(sizes))
    places = zip(images.tolist(), sizes.tolist(), strict=True)
    one_by_one = [sampler.sample(image, view, tuple(size)).pack(sampler.record_bytes) for image, size in places]
    assert [bytes(record) for record in pack_many(sampler, images, view, sizes)] == one_by_one


def test_an_image_too_large_for_a_record_is_named_by_its_size():
    with pytest.raises(InputError, match="70000 x 10 pixels"):
        pack_many(ViewSampler(), np.arange(1), 0, np.array([[70000, 10]]))


@pytest.mark.parametrize("aspect", [0.5, 1.5, 2.0])
def test_views_of_a_teacher_that_is_not_square_have_its_aspect(aspect):
    """So that resizing to its input squeezes them no more than those of a square one."""
    for size in ((120, 80), (80, 120), (33, 500)):
        centre = ViewSampler(kind="centre", flip=0.0, aspect=aspect).sample(0, 0, size)
        assert centre.width / centre.height == pytest.approx(aspect, rel=0.05)
        assert max(centre.width / size[0], centre.height / size[1]) == pytest.approx(0.875, abs=0.02)
        for view in range(30):
            drawn = ViewSampler(aspect=aspect, scale=(0.1, 0.2)).sample(0, view, size)
            assert 0.7 * aspect < drawn.width / drawn.height < 1.4 * aspect or 33 in size
    square = ViewSampler(aspect=1.0)
    assert square.to_dict() == ViewSampler().to_dict()
    assert "aspect" not in square.to_dict()
    assert ViewSampler(aspect=aspect).to_dict()["aspect"] == aspect
