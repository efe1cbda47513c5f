"""Mixup and cutmix of two views, as pure functions on 8-bit RGB images."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .kernels import Box, pixel_box

_ONE = 1 << 16


def mixup(image: Image.Image, partner: Image.Image, lam: float) -> Image.Image:
    """Mix ``lam`` of the image with the rest of the partner, in whole numbers, halves up."""
    weight = round(lam * _ONE)
    mixed = np.asarray(image).astype(np.uint32)
    mixed *= weight
    mixed += np.asarray(partner).astype(np.uint32) * np.uint32(_ONE - weight)
    mixed += _ONE // 2
    mixed >>= 16
    return Image.fromarray(mixed.astype(np.uint8))


def cutmix(image: Image.Image, partner: Image.Image, box: Box) -> Image.Image:
    """Paste the partner's box (grid units) into the image."""
    place = pixel_box(box, image)
    if place[0] >= place[2] or place[1] >= place[3]:
        return image
    mixed = image.copy()
    mixed.paste(partner.crop(place), place)
    return mixed
