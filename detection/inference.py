"""Images as a detector takes them, and its detections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmengine.config import Config

from tinyvit.core.errors import InputError
from tinyvit.core.images.decode import decode, read_file

from ..backbones import Checkpoint, Choice
from ..backbones.deployed import deploy_for_command
from .config import config_classes
from .data.classes import check_same_classes
from .registry import TRANSFORMS
from .runtime import building, import_mmdet, load_detector, read_detector

if TYPE_CHECKING:
    from typing_extensions import Unpack


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` with the decoder of :mod:`tinyvit.core.images.decode`.

    It takes the same arguments. ``img`` is BGR, uint8, (height, width, 3). ``imdecode_backend`` has
    no effect. mmcv decodes where ``color_type`` is another than ``color``.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Return the sample with its image.

        Raises:
            OSError: The file is missing.
            AssertionError: It is damaged; the text is that of mmcv's loader.
        """
        if self.color_type != "color":
            return super().transform(results)
        path = results["img_path"]
        try:
            pixels = self._pixels(path)
        except Exception as error:  # Pillow raises many kinds on damaged files
            if self.ignore_empty:
                return None
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise AssertionError(f"failed to load image: {path}") from error
        results["img"] = pixels.astype(np.float32) if self.to_float32 else pixels
        results["img_shape"] = results["ori_shape"] = pixels.shape[:2]
        return results

    def _pixels(self, path: str) -> np.ndarray:
        if self.file_client_args is not None:
            data = fileio.FileClient.infer_client(self.file_client_args, path).get(path)
        elif self.backend_args is not None:
            data = fileio.get(path, backend_args=self.backend_args)
        else:
            data = read_file(path)
        return np.ascontiguousarray(np.asarray(decode(bytes(data)))[..., ::-1])


class Predictor:
    """A detector with its weights, ready for images.

    Args:
        cfg: A config of :func:`tinyvit.detection.load_config`.
        weights: The detector's checkpoint, whose parameters must all fit the config; ``None`` for
            random weights, to measure the speed.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        deployed: Whether the backbone's deployed form runs (see :func:`tinyvit.backbones.deploy`).
        **choice: ``weights_key``, ``prefix`` and ``partial``, as for
            :func:`tinyvit.backbones.load_weights`.

    Attributes:
        classes: Names of the classes, from the checkpoint or else the config.
        deployed: The report of the deployed backbone as plain JSON values, or ``None``.

    Raises:
        InputError: A checkpoint that does not fit.
        CheckFailedError: The deployed backbone differs from its module.
    """

    def __init__(
        self,
        cfg: Config,
        weights: str | Path | Checkpoint | None,
        *,
        device: str = "cpu",
        deployed: bool = True,
        **choice: Unpack[Choice],
    ) -> None:
        checkpoint, trained = read_detector(weights) if weights is not None else (None, None)
        stated = config_classes(cfg)
        if checkpoint is not None and trained is not None and stated is not None:
            check_same_classes(trained, f"checkpoint {checkpoint.origin}", stated, "the config")
        self.classes = trained or stated or ()
        import_mmdet()
        from mmcv.transforms import Compose
        from mmdet.registry import MODELS

        with building():
            self.model: Any = MODELS.build(cfg.model)
            steps = [step for step in _test_pipeline(cfg) if not step["type"].startswith("LoadAnnotations")]
            steps[0] = {"type": "mmdet.LoadImageFromNDArray"}
            self.pipeline = Compose(steps)
        if checkpoint is not None:
            load_detector(self.model, checkpoint, **choice)
        self.model.to(device).eval()
        self.deployed: dict[str, Any] | None = None
        if deployed:
            self.model = deploy_for_command(self.model, what="backbone")
            self.deployed = self.model.backbone.report.to_dict()

    def __call__(self, image: np.ndarray) -> list[dict[str, Any]]:
        """Return the detections in one image.

        Args:
            image: RGB, uint8, (height, width, 3).

        Returns:
            Detections by falling score: ``bbox`` (x, y, width, height in pixels), ``score``,
            ``label``, ``category`` and, from detectors with masks, ``segmentation`` (COCO's
            run-length code, as text).
        """
        return self.describe(self.find([image])[0])

    def find(self, images: Sequence[np.ndarray]) -> list[Any]:
        """Return the detections in several images, as MMDetection's ``InstanceData`` on the CPU, by
        falling score.

        Images that have the same size after resizing run as one batch. Padding images to a common
        size would change the features of a backbone with window attention.

        Args:
            images: Each RGB, uint8, (height, width, 3).

        Raises:
            InputError: As :meth:`prepare`.
        """
        import torch

        samples = [self.prepare(image) for image in images]
        groups: dict[Any, list[int]] = {}
        for at, sample in enumerate(samples):
            groups.setdefault(sample["inputs"][0].shape, []).append(at)
        found: list[Any] = [None] * len(samples)
        for group in groups.values():
            batch = {key: [samples[at][key][0] for at in group] for key in ("inputs", "data_samples")}
            with torch.no_grad():
                results = self.model.test_step(batch)
            for at, result in zip(group, results, strict=True):
                instances = result.pred_instances.cpu()
                found[at] = instances[instances.scores.argsort(descending=True)]
        return found

    def prepare(self, image: np.ndarray) -> dict[str, Any]:
        """Return an image as the detector's ``test_step`` takes it: resized, not yet normalised.

        Args:
            image: RGB, uint8, (height, width, 3).

        Raises:
            InputError: The resized image would be less than a pixel wide or high.
        """
        import cv2

        bgr = np.ascontiguousarray(image[..., ::-1])
        try:
            sample: Any = self.pipeline({"img": bgr, "img_id": 0})
        except cv2.error as error:  # a side that becomes less than a pixel, say
            height, width = image.shape[:2]
            raise InputError(f"an image of {width} x {height} pixels cannot be resized to the input") from error
        return {"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}

    def name_of(self, label: int) -> str:
        """Return the name of a class."""
        return self.classes[label] if label < len(self.classes) else str(label)

    def describe(self, found: Any) -> list[dict[str, Any]]:
        """Return detections of :meth:`find` as plain values; see :meth:`__call__`."""
        masks = found.masks if "masks" in found else None
        detections = []
        for i, (x1, y1, x2, y2) in enumerate(found.bboxes.tolist()):
            label = int(found.labels[i])
            detection: dict[str, Any] = {
                "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
                "score": round(float(found.scores[i]), 5),
                "label": label,
                "category": self.name_of(label),
            }
            if masks is not None:
                detection["segmentation"] = _encode(masks[i].numpy())
            detections.append(detection)
        return detections


def _test_pipeline(cfg: Config) -> list[Any]:
    loader = cfg.get("test_dataloader") or cfg.get("val_dataloader")
    if not loader:
        raise InputError("the config has no test_dataloader; add one, whose pipeline prepares an image")
    dataset = loader["dataset"]
    while "pipeline" not in dataset and "dataset" in dataset:
        dataset = dataset["dataset"]
    return [dict(step) for step in dataset["pipeline"]]


def _encode(mask: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as coder

    code: Any = coder.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(code["size"]), "counts": code["counts"].decode("ascii")}


def check_score(value: float, name: str) -> None:
    """Check that a threshold is a score.

    Raises:
        InputError: It is outside [0, 1].
    """
    if not 0 <= value <= 1:
        raise InputError(f"{name} is {value:g}; it must be from 0 to 1")
