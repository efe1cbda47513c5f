"""The worker's half of drift: photographs through an engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinyvit.core.images.files import ImageFiles

from .engines import Engine


def run_photos(engine: Engine, photos: str | None, images: int, prepared: Path, outputs: Path) -> int:
    """Run photographs through an engine and write its outputs.

    Args:
        engine: Ready to run.
        photos: A folder or zip: they are prepared as the engine's model wants and written to
            ``prepared``. ``None`` reads ``prepared`` instead.
        images: The number of photographs to use.
        prepared: ``.npy`` of float32 ``(N, 3, H, W)``.
        outputs: ``.npy`` to write.

    Returns:
        The number of images.
    """
    if photos is not None:
        np.save(prepared, prepare_photos(engine, photos, images))
    photographs = np.load(prepared, mmap_mode="r")
    batch = engine.facts["input_shape"][0]
    parts = []
    for start in range(0, len(photographs), batch):
        chunk = photographs[start : start + batch]
        # A graph may be fixed to its batch size: the last batch is filled up with its first image.
        filled = np.concatenate([chunk, np.repeat(chunk[:1], batch - len(chunk), axis=0)])
        parts.append(engine.infer(filled)[: len(chunk)])
    np.save(outputs, np.concatenate(parts))
    return len(photographs)


def prepare_photos(engine: Engine, photos: str | Path, images: int) -> np.ndarray:
    """Return photographs, evenly spread over a folder, as float32 ``(N, 3, H, W)``.

    Raises:
        InputError: The folder is missing or holds no image.
    """
    files = ImageFiles(photos)
    count = min(images, len(files))
    keys = [files[index * len(files) // count] for index in range(count)]
    transform = engine.preprocess
    return np.stack([transform.normalize_array(transform.crop(files.open(key))) for key in keys])
