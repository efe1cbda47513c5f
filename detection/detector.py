"""A trained detector in three lines of Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from mmengine.config import Config
from PIL import Image

from tinyvit.core.errors import InputError, check_file
from tinyvit.core.images.decode import decode, read_file, to_rgb

from ..backbones import Checkpoint, Choice
from .config import input_size, load_config, set_classes, trained_size
from .inference import Predictor, check_score
from .runtime import read_detector
from .stored import stored_config

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: One image for :meth:`Detector.predict`.
ImageLike: TypeAlias = "str | Path | Image.Image | np.ndarray"


@dataclass(frozen=True, eq=False)
class Detections:
    """Detections in one image, by falling score.

    Attributes:
        boxes: Left, top, right and bottom in pixels of the upright image, ``(N, 4)`` float32.
        scores: In 0..1, ``(N,)`` float32.
        labels: Positions in :attr:`Detector.classes`, ``(N,)`` int64.
        names: Names of the labels, N.
        masks: ``(N, height, width)`` bool; ``None`` from detectors without masks.
        size: Width and height of the upright image in pixels.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    masks: np.ndarray | None
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.scores)


class Detector:
    """A detector of a checkpoint, with the config that its training kept in it.

    ::

        from tinyvit.detection import Detector

        detector = Detector("runs/a/epoch_12.pth")
        found = detector.predict("street.jpg")
        print(found.boxes, found.scores, found.names)

    Args:
        checkpoint: The checkpoint of a training.
        config: A config, as for :func:`tinyvit.detection.load_config`. ``None``: the checkpoint's.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``None`` for CUDA where there is one.
        img_size: Longest side of the resized images in pixels. ``None``: the training's.
        deployed: Whether the backbone's deployed form runs.
        **choice: ``weights_key``, ``prefix`` and ``partial``, as for
            :func:`tinyvit.backbones.load_weights`.

    Attributes:
        classes: Names of the classes.
        input_size: Width and height in pixels of the frame that images are resized into; ``None``
            where the config has no single one.

    Raises:
        InputError: The file is not a detector's checkpoint, has no config and none is given, or
            does not fit the config.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        config: str | Path | Config | None = None,
        device: str | None = None,
        img_size: int | None = None,
        deployed: bool = True,
        **choice: Unpack[Choice],
    ) -> None:
        import torch

        opened, _ = read_detector(checkpoint)
        cfg = detector_config(opened, config, img_size=size_of_test(config, checkpoint, img_size)[0])
        where = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._predictor = Predictor(cfg, opened, device=where, deployed=deployed, **choice)
        self.classes: tuple[str, ...] = self._predictor.classes
        self.input_size = input_size(cfg)

    @overload
    def predict(self, images: ImageLike, *, score_thr: float = 0.3, batch_size: int = 1) -> Detections: ...
    @overload
    def predict(
        self, images: Iterable[ImageLike], *, score_thr: float = 0.3, batch_size: int = 1
    ) -> list[Detections]: ...

    def predict(
        self, images: ImageLike | Iterable[ImageLike], *, score_thr: float = 0.3, batch_size: int = 1
    ) -> Detections | list[Detections]:
        """Return the detections in one image, or a list of those in several.

        Args:
            images: An image, or several. An image is a file; an image of Pillow; or an array of
                uint8, RGB, (height, width, 3), as Pillow and torchvision decode it. OpenCV's arrays
                are BGR: turn them with ``image[..., ::-1]``. Grey arrays (height, width) are taken,
                too. The EXIF orientation of files and Pillow images is applied.
            score_thr: Smallest score of a detection, in [0, 1].
            batch_size: Images that run at once, where they have the same size after resizing. The
                results are those of single images, up to rounding.

        Raises:
            InputError: A file is missing or not an image, or an array is of another kind.
        """
        check_score(score_thr, "score_thr")
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be at least 1")
        if isinstance(images, (str, Path, Image.Image, np.ndarray)):
            return self._predict([images], score_thr)[0]
        rest, found = iter(images), []
        while batch := list(islice(rest, batch_size)):
            found += self._predict(batch, score_thr)
        return found

    def _predict(self, images: Sequence[ImageLike], score_thr: float) -> list[Detections]:
        pixels = [_pixels(image) for image in images]
        return [
            self._detections(found, one.shape[1::-1], score_thr)
            for one, found in zip(pixels, self._predictor.find(pixels), strict=True)
        ]

    def _detections(self, found: Any, size: tuple[int, int], score_thr: float) -> Detections:
        found = found[found.scores >= score_thr]
        labels = found.labels.numpy().astype(np.int64)
        return Detections(
            boxes=found.bboxes.numpy().astype(np.float32).reshape(-1, 4),
            scores=found.scores.numpy().astype(np.float32),
            labels=labels,
            names=tuple(self._predictor.name_of(label) for label in labels.tolist()),
            masks=found.masks.numpy().astype(bool) if "masks" in found else None,
            size=size,
        )


def detector_config(
    checkpoint: Checkpoint,
    config: str | Path | Config | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    img_size: int | tuple[int, int] | None = None,
) -> Config:
    """Return the config that a detector predicts with.

    Args:
        checkpoint: The detector's, of :func:`tinyvit.detection.read_detector`.
        config: As for :func:`tinyvit.detection.load_config`; ``None``: the checkpoint's own.
        overrides: Dotted keys and values that are put into the config last.
        img_size: The size of :func:`size_of_test`.

    Raises:
        InputError: There is no config, it does not fit the checkpoint, or the number of classes in
            ``overrides`` is not the checkpoint's.
    """
    own = config if config is not None else stored_config(checkpoint)
    if own is None:
        raise InputError(f"{checkpoint.origin} holds no config of its training; give the config, too")
    cfg = load_config(own, overrides=overrides, img_size=img_size)
    classes = read_detector(checkpoint)[1]
    for key, value in (overrides or {}).items():
        if classes and key.endswith("num_classes") and value != len(classes):
            raise InputError(
                f"--cfg-options {key}={value}, but {checkpoint.origin} has {len(classes)} classes; leave it out"
            )
    if classes:
        set_classes(cfg, classes)
    return cfg


def size_of_test(config: str | Path | Config | None, weights: str | Path, asked: int | None) -> tuple[Any, str]:
    """Return the size of test images for :func:`tinyvit.detection.load_config`, and its origin.

    Args:
        config: As for :func:`detector_config`.
        weights: The detector's checkpoint.
        asked: The size of the option, which wins.

    Returns:
        The size; ``None`` stands for the config's. The origin is the option, the config of the same
        file name beside the checkpoint, or the config.
    """
    if asked is not None:
        return asked, "--img-size"
    if config is None:
        return None, f"the training's config in {weights}"
    found = None if isinstance(config, Config) else trained_size(config, weights)
    return (found[0], f"the training's config {found[1]}") if found else (None, f"the config {config}")


def _pixels(image: Any) -> np.ndarray:
    """Return an image as RGB, uint8, (height, width, 3)."""
    if isinstance(image, (str, Path)):
        if "://" in str(image):
            raise InputError(f"{image} is an address; download the image first")
        try:
            return np.asarray(decode(read_file(check_file(image, "image", "an image file"))))
        except InputError:
            raise
        except Exception as error:  # Pillow raises many kinds on damaged files
            raise InputError(f"image {image} cannot be read: {error}") from error
    if isinstance(image, Image.Image):
        return np.asarray(to_rgb(image))
    if not isinstance(image, np.ndarray):
        raise InputError(f"an image is a {type(image).__name__}; give a file, an image of Pillow or an array")
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3) or not image.size:
        raise InputError(
            f"an array of shape {image.shape} and type {image.dtype} is not an image; give uint8, RGB, "
            "(height, width, 3) with values from 0 to 255"
        )
    return image if image.ndim == 3 and channels == 3 else np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
