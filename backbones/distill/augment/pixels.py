"""A view's pixels, from an image and recorded parameters, and their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from PIL import Image, features
from PIL import __version__ as pillow_version

from tinyvit.core.errors import InputError

from . import kernels
from .record import ViewParams
from .sampling import ViewSampler

Partner = tuple[Image.Image, ViewParams]


def apply(image: Image.Image, params: ViewParams, size: tuple[int, int], partner: Partner | None = None) -> Image.Image:
    """Return a view: the same image, parameters and size give the same pixels.

    Args:
        image: The decoded RGB image.
        params: The view's parameters.
        size: Height and width of the result in pixels.
        partner: The image and the parameters of the view that this one is mixed with. Its own
            mixing is ignored. It is needed when ``params.mix`` is set, and ignored otherwise.

    Returns:
        An RGB image of ``size``.

    Raises:
        InputError: An image has another size than the one that its parameters were made for, or the
            partner is missing.
    """
    view = _unmixed(image, params, size)
    if params.mix is None:
        return view
    if partner is None:
        raise InputError(
            f"the view is mixed with image {params.mix.image}, view {params.mix.view}, which is not given; pass it as "
            "partner"
        )
    return params.mix(view, _unmixed(*partner, size))


def draw_view(
    sampler: ViewSampler,
    place: tuple[int, int],
    image: Image.Image,
    size: tuple[int, int],
    images: int,
    open_image: Callable[[int], Image.Image | None],
) -> tuple[np.ndarray, ViewParams]:
    """Draw one view and make its pixels.

    Args:
        sampler: The source of its parameters.
        place: The image's ordinal and the view's number.
        image: The decoded RGB image.
        size: Height and width of the result in pixels.
        images: How many images there are.
        open_image: Returns the decoded image of an ordinal, or ``None`` when it cannot be read. A
            view whose partner cannot be read is not mixed.

    Returns:
        ``(H, W, 3)`` u8, and the parameters.
    """
    params, partner = sampler.sample(*place, image.size, images), None
    if params.mix is not None:
        other = open_image(params.mix.image)
        if other is None:
            params = params.unmixed()
        else:
            partner = other, sampler.sample(params.mix.image, params.mix.view, other.size, images)
    return np.asarray(apply(image, params, size, partner)), params


def _unmixed(image: Image.Image, params: ViewParams, size: tuple[int, int]) -> Image.Image:
    params.require_size(image.size)
    view = kernels.resized_crop(image, params.crop, size, params.interpolation)
    if params.flip:
        view = kernels.mirror(view)
    for operation in (*params.operations, params.three, params.jitter, params.erase):
        if operation is not None:
            view = operation(view)
    return view


def pixel_hash(view: np.ndarray) -> int:
    """Return the 64-bit hash of a view's pixels, ``(H, W, 3)`` u8."""
    return int.from_bytes(hashlib.blake2b(view.tobytes(), digest_size=8).digest(), "little")


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that turn a file and a record into pixels."""
    versions = {"pillow": pillow_version}
    for name, feature in (("jpeg", "libjpeg_turbo"), ("zlib", "zlib"), ("webp", "webp")):
        version = features.version(feature)
        if version:
            versions[name] = str(version)
    return versions
