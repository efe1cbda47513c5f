"""Checksums of rows."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import torch

from tinyvit.backbones.distill.store import RowLayout, encode_logits, seal
from tinyvit.backbones.distill.store.checksums import damaged


def test_checksum_is_the_documented_one_and_notices_every_byte():
    layout = RowLayout(3, 300)
    rows = encode_logits(torch.randn(2, 300), layout)
    images, views = np.array([5, 6]), np.array([1, 0])
    seal(rows, images, views)
    data = rows[0].tobytes()
    assert rows["crc"][0] == zlib.crc32(struct.pack("<QI", 5, 1) + data[:-4])
    assert len(damaged(rows, images, views)) == 0
    for position in range(len(data)):
        changed = rows.copy()
        changed.view(np.uint8)[position] ^= 1
        assert damaged(changed, images, views).tolist() == [0], position
    assert damaged(rows[::-1].copy(), images, views).tolist() == [0, 1]
