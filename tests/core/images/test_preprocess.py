"""The evaluation transform beside timm's."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from timm.data.transforms_factory import create_transform

from tinyvit.core.images.preprocess import Preprocess


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (32, 33), (64, 64)])
@pytest.mark.parametrize("shape", [(200, 300), (301, 200), (90, 90), (20, 400)])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_the_crop_is_timms_for_unequal_sides_too(size: tuple, shape: tuple, crop_pct: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    theirs = create_transform((3, *size), is_training=False, interpolation="bicubic", crop_pct=crop_pct)
    crop = np.asarray(Preprocess(size=size, crop_pct=crop_pct).crop(image))
    assert crop.shape == (*size, 3)
    for transform in theirs.transforms[:2]:  # resize and crop; the rest makes numbers of it
        image = transform(image)
    np.testing.assert_array_equal(crop, np.asarray(image))


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (64, 64)])
def test_the_crop_has_no_border(size: tuple) -> None:
    image = Image.fromarray(np.full((50, 40, 3), 200, np.uint8))
    assert np.asarray(Preprocess(size=size).crop(image)).min() == 200
