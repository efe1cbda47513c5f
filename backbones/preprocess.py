"""The evaluation transform with tensors as its result."""

from __future__ import annotations

import torch
from PIL import Image

from tinyvit.core.images import preprocess


class Preprocess(preprocess.Preprocess):
    """The evaluation transform of timm and of the official code: PIL image -> float tensor ``(3, H,
    W)``.

    The settings are those of :class:`tinyvit.core.images.preprocess.Preprocess`.
    """

    def normalize(self, image: Image.Image) -> torch.Tensor:
        """Return the numeric part, ``(x / 255 - mean) / std`` per channel, for a cropped image."""
        return torch.from_numpy(self.normalize_array(image))

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return the normalised tensor ``(3, H, W)`` of an image of any size and mode."""
        return self.normalize(self.crop(image))
