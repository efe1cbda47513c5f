"""Labels of boxes do not cover each other and stay inside the image."""

from __future__ import annotations

import random

from tinyvit.core.images.labels import _overlap, place_label


def test_a_label_goes_above_inside_below_or_further_down() -> None:
    image, size = (100, 100), (30, 10)
    first = place_label((10, 40, 20, 20), size, image, [])
    assert first == (10, 30, 30, 10)
    second = place_label((10, 40, 20, 20), size, image, [first])
    assert second == (10, 40, 30, 10)
    third = place_label((10, 40, 20, 20), size, image, [first, second])
    assert third == (10, 60, 30, 10)
    assert place_label((90, 0, 10, 10), size, image, []) == (70, 0, 30, 10)  # inside both edges


def test_a_crowd_of_boxes_has_readable_labels() -> None:
    draws = random.Random(0)
    taken: list[tuple[float, float, float, float]] = []
    for _ in range(12):
        box = (draws.uniform(0, 200), draws.uniform(0, 300), 60.0, 60.0)
        taken.append(place_label(box, (60, 12), (320, 400), taken))
    assert not [(a, b) for k, a in enumerate(taken) for b in taken[:k] if _overlap(a, b)]
    assert all(0 <= x <= 320 - w and 0 <= y <= 400 - h for x, y, w, h in taken)


def test_a_label_larger_than_its_image_begins_in_it() -> None:
    assert place_label((5, 5, 4, 4), (90, 50), (30, 20), []) == (0, 5, 90, 50)
