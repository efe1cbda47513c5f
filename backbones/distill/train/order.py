"""The order in which a run shows images and views."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

ViewPlace = tuple[int, int]
_PLACES = 65_536


class ViewOrder(Sampler):
    """The endless order of ``(image, view)``.

    Pass ``e`` is a permutation of the images, each with view ``e mod V``.

    With ``repeats`` R each image comes R times in a row, with views ``e R`` to ``e R + R - 1``. A
    pass ends after as many views as there are images, so that it shows one image in R. This is
    DeiT's repeated augmentation, which also rounds a pass down to a multiple of 256.

    Process ``r`` of W takes places ``r``, ``r + W``, .... Together they see the batches that one
    process would. The views of one image go to different processes, as in DeiT.

    Every place is a pure function of the seed and its number. A resumed run therefore continues
    exactly where it was, whatever was prefetched; mmengine calls :meth:`skip` for that.

    Args:
        images: Ordinals of the readable images.
        views: V, or ``None`` for a new view each time.
        seed: Seed of the permutations.
        repeats: R.
        rank: r.
        world: W.
    """

    def __init__(
        self, images: np.ndarray, views: int | None, seed: int, repeats: int = 1, rank: int = 0, world: int = 1
    ) -> None:
        self.images, self.views, self.seed, self.repeats = images, views, seed, repeats
        self.rank, self.world = rank, world
        self.position = 0

    def __len__(self) -> int:
        return len(self.images)

    def skip(self, count: int) -> None:
        """Go ``count`` of this process's places forward."""
        self.position += count

    def __iter__(self) -> Iterator[ViewPlace]:
        count = len(self.images)
        epoch, offset = divmod(self.position * self.world + self.rank, count)
        while True:
            shuffled = self._shuffled(epoch)
            # A few at a time: a pass over many millions of images would take gigabytes as Python's
            # numbers.
            for start in range(offset, count, _PLACES * self.world):
                places = np.arange(start, min(start + _PLACES * self.world, count), self.world)
                yield from self._at(places, shuffled, epoch)
            # This process's next place, counted from the end of this pass.
            offset += max(0, -(-(count - offset) // self.world)) * self.world - count
            epoch += 1

    def _shuffled(self, epoch: int) -> np.ndarray:
        """Return the images in the order of one pass, ``(N,)``."""
        key = np.array([self.seed, epoch], np.uint64)
        return np.random.Generator(np.random.Philox(key=key)).permutation(self.images)

    def _at(self, places: np.ndarray, shuffled: np.ndarray, epoch: int) -> Iterator[ViewPlace]:
        """Return images and views at places of one pass."""
        views = epoch * self.repeats + places % self.repeats
        views = views if self.views is None else views % self.views
        return zip(shuffled[places // self.repeats].tolist(), views.tolist(), strict=True)
