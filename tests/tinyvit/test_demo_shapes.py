"""The drawn images: what an image depends on, and that boxes and masks are those of
the shapes.
"""

from __future__ import annotations

import numpy as np
import pytest

from tinyvit.demo import shapes


def test_a_picture_depends_on_seed_split_and_index_only():
    first, category = shapes.single(3, "pool", 17)
    shapes.single(3, "pool", 16)
    again, _ = shapes.single(3, "pool", 17)
    assert np.array_equal(first, again)
    assert category == 17 % 10
    for other in [(4, "pool", 17), (3, "probe-test", 17), (3, "pool", 27)]:
        assert not np.array_equal(first, shapes.single(*other)[0])


def test_no_split_shares_a_picture_with_another():
    seen = {shapes.single(0, split, index)[0].tobytes() for split in shapes.SPLITS for index in range(5)}
    assert len(seen) == 5 * len(shapes.SPLITS)


@pytest.mark.parametrize("category", range(len(shapes.CLASSES)), ids=shapes.CLASSES)
def test_a_single_shows_its_shape_in_the_middle(category):
    pixels, label = shapes.single(0, "pool", category, size=96)
    assert (pixels.shape, pixels.dtype, label) == ((96, 96, 3), np.uint8, category)


def test_scene_boxes_are_the_tight_boxes_of_disjoint_masks():
    shown = []
    for index in range(40):
        pixels, instances = shapes.scene(1, "detect-train", index, size=160)
        assert pixels.shape == (160, 160, 3)
        assert 1 <= len(instances) <= 4
        assert np.sum([instance.mask for instance in instances], axis=0).max() == 1
        for instance in instances:
            x, y, width, height = instance.box
            inside = instance.mask[y : y + height, x : x + width]
            assert inside.sum() == instance.mask.sum() > 0
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()
            shown.append(instance.category)
    assert set(shown) == set(range(10))


def test_most_shapes_wear_the_texture_of_their_class(monkeypatch):
    worn = []
    spies = [lambda u, v, rng, k=k: (worn.append(k), np.zeros_like(u))[1] for k in range(10)]
    monkeypatch.setattr(shapes, "_TEXTURES", tuple(spies))
    count = 400
    for index in range(count):
        shapes.single(0, "pool", index, size=32)
    own = np.mean([texture == index % 10 for index, texture in enumerate(worn)])
    # Four standard errors of a share of 0.7 in 400 draws.
    assert abs(own - shapes.OWN_TEXTURE_SHARE) < 4 * np.sqrt(0.7 * 0.3 / count)


def test_run_lengths_decode_to_the_mask():
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools (extra: detection) is not installed")
    masks = [np.zeros((7, 5), bool), np.ones((7, 5), bool)]
    masks += [instance.mask for instance in shapes.scene(0, "detect-test", 3)[1]]
    for mask in masks:
        run_lengths = shapes.rle(mask)
        assert np.array_equal(coco.decode(coco.frPyObjects(run_lengths, *mask.shape)).astype(bool), mask)
