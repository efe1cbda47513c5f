"""Operations on pixels: pure functions from 8-bit RGB images and numbers to such images.

Magnitudes are relative to the view, so that one view shows the same at different sizes. On square
images the RandAugment kernels give timm's pixels (``timm.data.auto_augment``), and the colour
kernels give torchvision's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from .streams import NOISE_KEY, normal_quantile, raw_words

#: The colour of geometric operations outside the image, and of constant erasing: the mean colour
#: of ImageNet.
FILL = (124, 116, 104)
#: Boxes are whole numbers in units of 1 / GRID of the view's width and height.
GRID = 65535
#: Side of the view in whose pixels a blur's radius is given.
BLUR_SIDE = 224
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_NOISE_MEAN, _NOISE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Box = tuple[int, int, int, int]
Kernel = Callable[[Image.Image, float, str], Image.Image]


def pixel_box(box: Box, image: Image.Image) -> Box:
    """Return a box in grid units as left, top, right, bottom in pixels of an image.

    Edges are rounded to the nearest pixel edge, halves up.
    """
    sides = (*image.size, *image.size)
    left, top, right, bottom = ((2 * edge * side + GRID) // (2 * GRID) for edge, side in zip(box, sides, strict=True))
    return left, top, right, bottom


# --- crop ---------------------------------------------------------------------


def resized_crop(image: Image.Image, box: Box, size: tuple[int, int], interpolation: str) -> Image.Image:
    """Return ``box`` (pixels) cut out and resized to ``size`` (height, width).

    The filter is Pillow's, antialiased.
    """
    # Crop first: resize(box=...) would let pixels outside the crop bleed into its border.
    return image.crop(box).resize((size[1], size[0]), FILTERS[interpolation])


def mirror(image: Image.Image) -> Image.Image:
    """Exchange left and right."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


# --- RandAugment --------------------------------------------------------------


def auto_contrast(image: Image.Image) -> Image.Image:
    """Stretch each channel so that its darkest value becomes 0 and its brightest 255."""
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image) -> Image.Image:
    """Flatten each channel's histogram."""
    return ImageOps.equalize(image)


def invert(image: Image.Image) -> Image.Image:
    """Return ``255 - x``."""
    return ImageOps.invert(image)


def posterize(image: Image.Image, bits: int) -> Image.Image:
    """Keep only the upper ``bits`` of each value, at least 1."""
    return image if bits >= 8 else ImageOps.posterize(image, max(1, bits))


def solarize(image: Image.Image, threshold: int) -> Image.Image:
    """Invert values from ``threshold`` (0 to 256) on."""
    return ImageOps.solarize(image, threshold)


def solarize_add(image: Image.Image, amount: int) -> Image.Image:
    """Add ``amount`` to values below 128, up to 255."""
    return image.point([min(255, value + amount) if value < 128 else value for value in range(256)] * 3)


def saturate(image: Image.Image, factor: float) -> Image.Image:
    """Blend with the grey image: 0 is grey, 1 the image itself."""
    return ImageEnhance.Color(image).enhance(factor)


def contrast(image: Image.Image, factor: float) -> Image.Image:
    """Blend with the mean grey: 0 is plain grey, 1 the image itself."""
    return ImageEnhance.Contrast(image).enhance(factor)


def brighten(image: Image.Image, factor: float) -> Image.Image:
    """Blend with black: 0 is black, 1 the image itself."""
    return ImageEnhance.Brightness(image).enhance(factor)


def sharpen(image: Image.Image, factor: float) -> Image.Image:
    """Blend with the image smoothed over 3 x 3 pixels: below 1 softer, above 1 sharper."""
    return ImageEnhance.Sharpness(image).enhance(factor)


def _affine(image: Image.Image, matrix: tuple[float, ...], interpolation: str) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=FILTERS[interpolation], fillcolor=FILL)


def shear_x(image: Image.Image, factor: float, interpolation: str) -> Image.Image:
    """Move rows left by ``factor`` times their distance from the top.

    Both are shares of the sides.
    """
    width, height = image.size
    return _affine(image, (1, factor * (width / height), 0, 0, 1, 0), interpolation)


def shear_y(image: Image.Image, factor: float, interpolation: str) -> Image.Image:
    """Move columns up by ``factor`` times their distance from the left.

    Both are shares of the sides.
    """
    width, height = image.size
    return _affine(image, (1, 0, 0, factor * (height / width), 1, 0), interpolation)


def translate_x(image: Image.Image, share: float, interpolation: str) -> Image.Image:
    """Move the image left by a share of its width."""
    return _affine(image, (1, 0, share * image.size[0], 0, 1, 0), interpolation)


def translate_y(image: Image.Image, share: float, interpolation: str) -> Image.Image:
    """Move the image up by a share of its height."""
    return _affine(image, (1, 0, 0, 0, 1, share * image.size[1]), interpolation)


def rotate(image: Image.Image, degrees: float, interpolation: str) -> Image.Image:
    """Turn the image counter-clockwise about its centre.

    One that is not square turns as if it were squeezed square first.
    """
    width, height = image.size
    if width == height:
        return image.rotate(degrees, resample=FILTERS[interpolation], fillcolor=FILL)
    angle = -math.radians(degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    a, b, d, e = cosine, sine * width / height, -sine * height / width, cosine
    x, y = width / 2, height / 2
    return _affine(image, (a, b, x - a * x - b * y, d, e, y - d * x - e * y), interpolation)


#: The operations of RandAugment by name; a record names them by position, from 1. Never reorder.
RAND_AUGMENT: dict[str, Kernel] = {
    "auto_contrast": lambda image, value, interpolation: auto_contrast(image),
    "equalize": lambda image, value, interpolation: equalize(image),
    "invert": lambda image, value, interpolation: invert(image),
    "rotate": rotate,
    "posterize": lambda image, value, interpolation: posterize(image, int(value)),
    "solarize": lambda image, value, interpolation: solarize(image, int(value)),
    "solarize_add": lambda image, value, interpolation: solarize_add(image, int(value)),
    "color": lambda image, value, interpolation: saturate(image, value),
    "contrast": lambda image, value, interpolation: contrast(image, value),
    "brightness": lambda image, value, interpolation: brighten(image, value),
    "sharpness": lambda image, value, interpolation: sharpen(image, value),
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
}


# --- three-augment and colour jitter ------------------------------------------


def grayscale(image: Image.Image) -> Image.Image:
    """Return the grey image, still in three channels."""
    return image.convert("L").convert("RGB")


def blur(image: Image.Image, radius: float) -> Image.Image:
    """Blur with a Gaussian; ``radius`` is in pixels of a view with shorter side ``BLUR_SIDE``."""
    return image.filter(ImageFilter.GaussianBlur(radius * (min(image.size) / BLUR_SIDE)))


def shift_hue(image: Image.Image, turn: float) -> Image.Image:
    """Move the hue by a share of the colour circle, -0.5 to 0.5."""
    hue, saturation, value = image.convert("HSV").split()
    step = int(turn * 255) % 256
    hue = hue.point([(level + step) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


# --- erasing ------------------------------------------------------------------


@functools.cache
def noise_table() -> np.ndarray:
    """Return the colour values that a random byte stands for, ``(3, 256)`` u8.

    They are normal with ImageNet's mean and deviation.
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
    """Return the noise of a 32-bit seed, ``(height, width, 3)`` u8.

    Byte ``3 * (y * width + x) + channel`` of the seed's words decides each value.
    """
    count = height * width * 3
    words = raw_words((seed, NOISE_KEY), (0, 0, 0), -(-count // 8))
    values = words.astype("<u8").view(np.uint8)[:count].reshape(height, width, 3)
    table = noise_table()
    return np.stack([table[channel][values[..., channel]] for channel in range(3)], axis=-1)


def erase(image: Image.Image, box: Box, mode: str, seed: int) -> Image.Image:
    """Cover a box.

    Args:
        image: An 8-bit RGB image.
        box: The box in grid units.
        mode: ``const`` (the fill colour), ``rand`` (one colour), or ``pixel`` (one colour per
            pixel).
        seed: Seed of the colours, 32 bits.
    """
    left, top, right, bottom = pixel_box(box, image)
    if left >= right or top >= bottom:
        return image
    erased = image.copy()
    if mode == "pixel":
        erased.paste(Image.fromarray(noise(seed, bottom - top, right - left)), (left, top))
    else:
        red, green, blue = FILL if mode == "const" else noise(seed, 1, 1)[0, 0].tolist()
        erased.paste((red, green, blue), (left, top, right, bottom))
    return erased
