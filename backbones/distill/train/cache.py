"""Views kept in memory."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from ..store import SoftLabelStore


class ViewCache:
    """Views kept in memory that forked worker processes share.

    The memory is anonymous and shared. It is not ``/dev/shm``, which containers often keep very
    small. Where processes are not forked, every process fills its own.

    Args:
        count: Views to hold.
        size: Side of a view in pixels.
    """

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self._allocate()

    def _allocate(self) -> None:
        bytes_each = self.size * self.size * 3
        self._pixels = np.frombuffer(mmap.mmap(-1, self.count * bytes_each), np.uint8)
        self._pixels = self._pixels.reshape(self.count, self.size, self.size, 3)
        self._filled = np.frombuffer(mmap.mmap(-1, self.count), np.uint8)

    def __getstate__(self) -> dict[str, int]:
        return {"count": self.count, "size": self.size}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(**state)

    def get(self, slot: int) -> np.ndarray | None:
        """Return the view in a slot, ``(size, size, 3)`` u8, or ``None``."""
        return self._pixels[slot] if self._filled[slot] else None

    def put(self, slot: int, view: np.ndarray) -> None:
        """Keep a view. If two processes write one slot, they write the same bytes."""
        self._pixels[slot] = view
        self._filled[slot] = 1


def make_cache(setting: bool | str, store: SoftLabelStore, size: int, samples: int) -> ViewCache | None:
    """Return the cache that a config asks for, or ``None``.

    ``auto`` makes one when views come again and a quarter of the free memory holds them.
    """
    count = store.header.images * store.header.views
    if setting == "auto":
        setting = samples > count and count * size * size * 3 <= free_memory() // 4
    return ViewCache(count, size) if setting else None


def free_memory() -> int:
    """Return the bytes of free memory; 0 where they are not known."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def identity(batch: Any) -> Any:
    """Return the batch as it is: the dataset gives whole batches already."""
    return batch
