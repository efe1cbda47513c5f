"""Annotation files with random damage: every fault is a sentence, and mended files can be read."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tinyvit.core.errors import InputError
from tinyvit.detection import check_data
from tinyvit.detection.data.annotations import find_faults, load_annotations
from tinyvit.detection.data.counts import Use, count_document
from tinyvit.detection.data.mend import mend

VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2**70,
        1.5,
        -0.0,
        float("nan"),
        float("inf"),
        "",
        "1",
        "x",
        " ",
        "\u00e9\u4e2d",
        "\ud800",
    ),
    *([], {}, [1], [1, 2, 3, 4], [[1, 2], [3, 4], [5, 6]], [[1, 2, 3, 4, 5, 6]], ["a"], [None], [[]], {"a": 1}),
    *([[1e9, 0, 0, 1e9, 5, 5]], [[1e300] * 6], [-1e12, 0, 1e13, 9], 1e-9, 1e300),
    *({"size": [96, 96], "counts": "0"}, {"size": [96, 96], "counts": [9216]}, {"size": None, "counts": None}),
    *([{"size": [96, 96], "counts": b"00".decode()}], [[[1, 2], [3]]], [0, 0, 0, 0], [-5, -5, 5, 5], [90, 90, 99, 99]),
]


def damage(document: Any, draw: random.Random) -> Any:
    """Change one or two places: replace, remove, repeat or move a value."""
    document = copy.deepcopy(document)
    for _ in range(draw.randint(1, 2)):
        node: Any = document
        while isinstance(node, (dict, list)) and node:
            key = draw.choice(list(node)) if isinstance(node, dict) else draw.randrange(len(node))
            if draw.random() < 0.03 or not isinstance(node[key], (dict, list)):
                way = draw.random()
                if way < 0.6:
                    node[key] = copy.deepcopy(draw.choice(VALUES))
                elif way < 0.8:
                    del node[key]
                elif isinstance(node, list):
                    node.append(copy.deepcopy(node[key]))
                else:
                    node[key] = copy.deepcopy(draw.choice(list(node.values())))
                break
            node = node[key]
    return document


@pytest.mark.parametrize("seed", range(2))
def test_damaged_documents(make_coco, tmp_path, seed: int) -> None:
    root = make_coco(train=3, val=0)
    whole = json.loads((root / "annotations/instances_train2017.json").read_text())
    draw = random.Random(seed)
    path = tmp_path / "damaged.json"
    read = mended_well = 0
    for number in range(250):
        document = damage(whole, draw)
        path.write_text(json.dumps(document))
        document = json.loads(path.read_text())
        faults = list(find_faults(document))
        if faults:
            with pytest.raises(InputError, match=r"^[^\n]*$"):
                load_annotations(path)
        else:
            read += 1
            loaded = load_annotations(path)
            found = count_document(loaded, Use(masks=True))
            assert found.trainable + sum(found.left_out.values()) == found.boxes
        if number % 5 == 0:
            report = check_data(ann=path, images=root / "train2017", masks=True)
            assert {one.kind for one in report.findings} >= {fault.kind for fault in faults}
        mended_well += check_mended(document, root / "train2017", tmp_path / "mended.json")
    assert read > 10
    assert mended_well > 150


def check_mended(document: Any, images: Path, path: Path) -> bool:
    """Check that a mended document can be read, unless nothing is left of a list."""
    mended, _ = mend(document, images)
    path.write_text(json.dumps(mended))
    kinds = {fault.kind for fault in find_faults(json.loads(path.read_text()))}
    assert kinds <= {"empty list"}
    if not kinds:
        again, changes = mend(load_annotations(path), images)
        assert changes == {}
        assert again == load_annotations(path)
    return not kinds
