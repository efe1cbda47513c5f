"""What happens to pixels: pure functions from 8-bit RGB pictures and numbers to 8-bit RGB pictures.

Magnitudes are relative to the view, so that pictures of the same view at different sizes show the
same. On square pictures the RandAugment kernels give timm's pixels (``timm.data.auto_augment``),
and the colour kernels torchvision's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from .streams import NOISE_KEY, normal_quantile, raw_words

#: What geometric operations and constant erasing show where there is no picture: the mean colour of
#: ImageNet.
FILL = (124, 116, 104)
#: Boxes are whole numbers in units of 1 / GRID of the view's width and height.
GRID = 65535
#: Side of the view in whose pixels a blur's radius is given.
BLUR_SIDE = 224
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_NOISE_MEAN, _NOISE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MIX_ONE = 1 << 16

Box = tuple[int, int, int, int]
Kernel = Callable[[Image.Image, float, str], Image.Image]


def pixel_box(box: Box, picture: Image.Image) -> Box:
    """A box in grid units as left, top, right, bottom in pixels of a picture: to the nearest edge,
    halves up.
    """
    sides = (*picture.size, *picture.size)
    left, top, right, bottom = ((2 * edge * side + GRID) // (2 * GRID) for edge, side in zip(box, sides, strict=True))
    return left, top, right, bottom


# --- crop ---------------------------------------------------------------------


def resized_crop(image: Image.Image, box: Box, size: tuple[int, int], interpolation: str) -> Image.Image:
    """Cut out ``box`` (pixels) and resize it to ``size`` (height, width) with Pillow's antialiased
    filter.
    """
    # Crop first: resize(box=...) would let pixels outside the crop bleed into its border.
    return image.crop(box).resize((size[1], size[0]), FILTERS[interpolation])


def mirror(picture: Image.Image) -> Image.Image:
    """Left and right exchanged."""
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


# --- RandAugment --------------------------------------------------------------


def auto_contrast(picture: Image.Image) -> Image.Image:
    """Each channel stretched so that its darkest value becomes 0 and its brightest 255."""
    return ImageOps.autocontrast(picture)


def equalize(picture: Image.Image) -> Image.Image:
    """Each channel's histogram made flat."""
    return ImageOps.equalize(picture)


def invert(picture: Image.Image) -> Image.Image:
    """``255 - x``."""
    return ImageOps.invert(picture)


def posterize(picture: Image.Image, bits: int) -> Image.Image:
    """Only the upper ``bits`` of each value kept, at least 1."""
    return picture if bits >= 8 else ImageOps.posterize(picture, max(1, bits))


def solarize(picture: Image.Image, threshold: int) -> Image.Image:
    """Values from ``threshold`` (0 to 256) on inverted."""
    return ImageOps.solarize(picture, threshold)


def solarize_add(picture: Image.Image, amount: int) -> Image.Image:
    """``amount`` added to values below 128, at most up to 255."""
    return picture.point([min(255, value + amount) if value < 128 else value for value in range(256)] * 3)


def saturate(picture: Image.Image, factor: float) -> Image.Image:
    """Blend with the grey picture: 0 is grey, 1 the picture itself."""
    return ImageEnhance.Color(picture).enhance(factor)


def contrast(picture: Image.Image, factor: float) -> Image.Image:
    """Blend with the mean grey: 0 is plain grey, 1 the picture itself."""
    return ImageEnhance.Contrast(picture).enhance(factor)


def brighten(picture: Image.Image, factor: float) -> Image.Image:
    """Blend with black: 0 is black, 1 the picture itself."""
    return ImageEnhance.Brightness(picture).enhance(factor)


def sharpen(picture: Image.Image, factor: float) -> Image.Image:
    """Blend with the picture smoothed over 3 x 3 pixels: below 1 softer, above 1 sharper."""
    return ImageEnhance.Sharpness(picture).enhance(factor)


def _affine(picture: Image.Image, matrix: tuple[float, ...], interpolation: str) -> Image.Image:
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, resample=FILTERS[interpolation], fillcolor=FILL
    )


def shear_x(picture: Image.Image, factor: float, interpolation: str) -> Image.Image:
    """Rows moved left by ``factor`` times their distance from the top, both as shares
    of the sides.
    """
    width, height = picture.size
    return _affine(picture, (1, factor * (width / height), 0, 0, 1, 0), interpolation)


def shear_y(picture: Image.Image, factor: float, interpolation: str) -> Image.Image:
    """Columns moved up by ``factor`` times their distance from the left, both as shares of the
    sides.
    """
    width, height = picture.size
    return _affine(picture, (1, 0, 0, factor * (height / width), 1, 0), interpolation)


def translate_x(picture: Image.Image, share: float, interpolation: str) -> Image.Image:
    """The picture moved left by a share of its width."""
    return _affine(picture, (1, 0, share * picture.size[0], 0, 1, 0), interpolation)


def translate_y(picture: Image.Image, share: float, interpolation: str) -> Image.Image:
    """The picture moved up by a share of its height."""
    return _affine(picture, (1, 0, 0, 0, 1, share * picture.size[1]), interpolation)


def rotate(picture: Image.Image, degrees: float, interpolation: str) -> Image.Image:
    """Turned counter-clockwise about the centre; one that is not square as if it were squeezed
    square first.
    """
    width, height = picture.size
    if width == height:
        return picture.rotate(degrees, resample=FILTERS[interpolation], fillcolor=FILL)
    angle = -math.radians(degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    a, b, d, e = cosine, sine * width / height, -sine * height / width, cosine
    x, y = width / 2, height / 2
    return _affine(picture, (a, b, x - a * x - b * y, d, e, y - d * x - e * y), interpolation)


#: The operations of RandAugment by name; a record names them by position, from 1. Never reorder.
RAND_AUGMENT: dict[str, Kernel] = {
    "auto_contrast": lambda picture, value, interpolation: auto_contrast(picture),
    "equalize": lambda picture, value, interpolation: equalize(picture),
    "invert": lambda picture, value, interpolation: invert(picture),
    "rotate": rotate,
    "posterize": lambda picture, value, interpolation: posterize(picture, int(value)),
    "solarize": lambda picture, value, interpolation: solarize(picture, int(value)),
    "solarize_add": lambda picture, value, interpolation: solarize_add(picture, int(value)),
    "color": lambda picture, value, interpolation: saturate(picture, value),
    "contrast": lambda picture, value, interpolation: contrast(picture, value),
    "brightness": lambda picture, value, interpolation: brighten(picture, value),
    "sharpness": lambda picture, value, interpolation: sharpen(picture, value),
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
}


# --- three-augment and colour jitter ------------------------------------------


def grayscale(picture: Image.Image) -> Image.Image:
    """The grey picture, still in three channels."""
    return picture.convert("L").convert("RGB")


def blur(picture: Image.Image, radius: float) -> Image.Image:
    """Gaussian blur; ``radius`` in pixels of a view whose shorter side is ``BLUR_SIDE``."""
    return picture.filter(ImageFilter.GaussianBlur(radius * (min(picture.size) / BLUR_SIDE)))


def shift_hue(picture: Image.Image, turn: float) -> Image.Image:
    """Hue moved by a share of the colour circle, -0.5 to 0.5."""
    hue, saturation, value = picture.convert("HSV").split()
    step = int(turn * 255) % 256
    hue = hue.point([(level + step) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


# --- erasing ------------------------------------------------------------------


@functools.cache
def noise_table() -> np.ndarray:
    """The colour values that a random byte stands for, ``(3, 256)`` u8: normal with ImageNet's mean
    and deviation.
    """
    quantiles = [normal_quantile((byte + 0.5) / 256) for byte in range(256)]
    return np.array(
        [
            [min(255, max(0, round(255 * (mean + std * quantile)))) for quantile in quantiles]
            for mean, std in zip(_NOISE_MEAN, _NOISE_STD, strict=True)
        ],
        dtype=np.uint8,
    )


def noise(seed: int, height: int, width: int) -> np.ndarray:
    """Noise of a 32-bit seed, ``(height, width, 3)`` u8: byte ``3 * (y * width + x) + channel`` of
    its words.
    """
    count = height * width * 3
    words = raw_words((seed, NOISE_KEY), (0, 0, 0), -(-count // 8))
    values = words.astype("<u8").view(np.uint8)[:count].reshape(height, width, 3)
    table = noise_table()
    return np.stack([table[channel][values[..., channel]] for channel in range(3)], axis=-1)


def erase(picture: Image.Image, box: Box, mode: str, seed: int) -> Image.Image:
    """Cover a box.

    Args:
        picture: The picture.
        box: In grid units.
        mode: ``const`` (the fill colour), ``rand`` (one colour), or ``pixel`` (every pixel
            another).
        seed: Of the colours, 32 bits.
    """
    left, top, right, bottom = pixel_box(box, picture)
    if left >= right or top >= bottom:
        return picture
    erased = picture.copy()
    if mode == "pixel":
        erased.paste(Image.fromarray(noise(seed, bottom - top, right - left)), (left, top))
    else:
        red, green, blue = FILL if mode == "const" else noise(seed, 1, 1)[0, 0].tolist()
        erased.paste((red, green, blue), (left, top, right, bottom))
    return erased


# --- mixing -------------------------------------------------------------------


def mixup(picture: Image.Image, partner: Image.Image, lam: float) -> Image.Image:
    """``lam`` of the picture and the rest of the partner, in whole numbers, halves up."""
    weight = round(lam * _MIX_ONE)
    mixed = np.asarray(picture).astype(np.uint32)
    mixed *= weight
    mixed += np.asarray(partner).astype(np.uint32) * np.uint32(_MIX_ONE - weight)
    mixed += _MIX_ONE // 2
    mixed >>= 16
    return Image.fromarray(mixed.astype(np.uint8))


def cutmix(picture: Image.Image, partner: Image.Image, box: Box) -> Image.Image:
    """The partner's box (grid units) in the picture."""
    place = pixel_box(box, picture)
    if place[0] >= place[2] or place[1] >= place[3]:
        return picture
    mixed = picture.copy()
    mixed.paste(partner.crop(place), place)
    return mixed
