"""Masks in every form that files have them in, against pycocotools."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tinyvit.detection.data.masks import mask_area, mask_box, read_mask

PAIRS = [[10, 10], [40, 10], [40, 50], [10, 50]]
FLAT = [10, 10, 40, 10, 40, 50, 10, 50]


def codes() -> dict:
    from pycocotools import mask as coder

    shape = np.zeros((96, 112), np.uint8, order="F")
    shape[10:50, 10:40] = 1
    text = {"size": [96, 112], "counts": coder.encode(shape)["counts"].decode()}
    flat = shape.reshape(-1, order="F")
    ends = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    counts = {"size": [96, 112], "counts": np.diff(ends).tolist()}
    data = {"size": (96, 112), "counts": text["counts"].encode()}
    return {"text": text, "counts": counts, "bytes": data, "nested": [text], "parts": [text, counts]}


@pytest.mark.parametrize("form", [[FLAT], FLAT, PAIRS, [PAIRS], [FLAT, [1, 2]], [PAIRS, FLAT], *codes().values()])
def test_one_shape_in_many_forms(form) -> None:
    mask, reason = read_mask(form, 96, 112)
    assert reason is None
    assert mask is not None
    assert mask_area(mask, 96, 112) == 1200
    assert mask_box(mask) == (10, 10, 30, 40)


@pytest.mark.parametrize(
    ("form", "why"),
    [
        (None, "no mask"),
        ([], "no mask"),
        ({}, "no mask"),
        ("", "no mask"),
        ("text", "neither polygons nor"),
        (7, "neither polygons nor"),
        ([[1, 2]], "no polygon of three points"),
        ([[1, 2], [3, 4]], "no polygon of three points"),
        ([[1, 2, 3, 4]], "no polygon of three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "no polygon of three points"),
        ([["a", 2, 3, 4, 5, 6]], "no polygon of three points"),
        ([[float("nan")] * 6], "no polygon of three points"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "far outside"),
        ([[[]]], "no polygon of three points"),
        ([None], "no polygon of three points"),
        ({"size": [112, 96], "counts": [96 * 112]}, r"has the size \[112, 96\], and its image is \[96, 112\]"),
        ({"counts": [96 * 112]}, "has the size None"),
        ({"size": [96, 112], "counts": None}, "does not cover"),
        ({"size": [96, 112], "counts": [5]}, "does not cover"),
        ({"size": [96, 112], "counts": [-5, 96 * 112 + 5]}, "does not cover"),
        ({"size": [96, 112], "counts": ["5"]}, "does not cover"),
        ({"size": [96, 112], "counts": ""}, "does not cover"),
        ({"size": [96, 112], "counts": "PPPP"}, "does not cover"),
        ({"size": [96, 112], "counts": codes()["text"]["counts"][:-1]}, "does not cover"),
        ({"size": [96, 112], "counts": codes()["text"]["counts"] + "1"}, "does not cover"),
        ({"size": [96, 112], "counts": "\u00e9" * 9}, "does not cover"),
        ([codes()["text"], {"size": [9, 9], "counts": [81]}], "has the size"),
    ],
)
def test_what_is_not_a_mask_has_a_reason(form, why) -> None:
    mask, reason = read_mask(form, 96, 112)
    assert mask is None
    assert reason is not None
    assert re.search(why, reason)


def test_codes_are_read_as_pycocotools_reads_them() -> None:
    from pycocotools import mask as coder

    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(1, 60, 2)
        shape = np.asfortranarray(rng.random((height, width)) < rng.random(), dtype=np.uint8)
        code = coder.encode(shape)
        mask, _ = read_mask({"size": [int(height), int(width)], "counts": code["counts"].decode()}, height, width)
        assert mask is not None
        assert np.array_equal(coder.decode(mask), shape)
