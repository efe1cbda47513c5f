"""The official TinyViT layout: both ways, byte for byte."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from tinyvit.backbones.distill.augment import ViewParams, ViewSampler
from tinyvit.backbones.distill.store import SoftLabelStore, restore
from tinyvit.backbones.distill.tools import export_official, import_official, record_type
from tinyvit.backbones.distill.train.datasets import StoredViews
from tinyvit.core.errors import InputError
from tinyvit.core.images.files import ImageFiles

from ..conftest import COUNT

K = 5


def write_official(path: Path, epochs: dict[int, list[list[int]]], classes: int = 30, seed: int = 0) -> Path:
    """An official store as its own code writes it; ``epochs``: number -> ordinals of each rank."""
    rng = np.random.default_rng(seed)
    for epoch, ranks in epochs.items():
        folder = path / f"logits_top{K}_epoch{epoch}"
        folder.mkdir(parents=True)
        for rank, ordinals in enumerate(ranks):
            keys, values = "", b""
            for ordinal in ordinals:
                logits = rng.normal(size=classes) * 3
                probability = np.exp(logits) / np.exp(logits).sum()
                index = np.argsort(-probability)[:K]
                keys += f"{ordinal:02d}\n"
                values += struct.pack("<i", int(rng.integers(0, 2**31)))
                values += index.astype("<i2").tobytes() + probability[index].astype("<f2").tobytes()
            (folder / f"rank{rank}-keys.txt").write_text(keys)
            (folder / f"rank{rank}-values.bin").write_bytes(values)
    return path


def files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture
def official(tmp_path) -> Path:
    """Two epochs, two and three ranks; image 0 is labelled twice, as an odd data set is."""
    order = np.random.default_rng(1).permutation(COUNT).tolist()
    return write_official(tmp_path / "official", {3: [order[::2], [*order[1::2], order[0]]], 7: [order, [], order[:1]]})


def test_round_trip_gives_the_same_bytes(official, pictures, tmp_path):
    summary = import_official(official, tmp_path / "store", ImageFiles(pictures), classes=40, show=False)
    assert (summary.topk, summary.epochs, summary.classes, summary.classes_from) == (K, [3, 7], 40, "argument")
    assert (summary.records, summary.repeated, summary.incomplete) == (2 * COUNT + 2, 2, 0)
    store = SoftLabelStore(tmp_path / "store")
    exported = export_official(store, tmp_path / "back", show=False)
    assert files(tmp_path / "back") == files(official)
    assert (exported.records, exported.seeds) == (2 * COUNT + 2, True)
    # And once more, from what was exported.
    import_official(tmp_path / "back", tmp_path / "again", ImageFiles(pictures), classes=40, show=False)
    assert files(tmp_path / "again") == files(tmp_path / "store")


def test_labels_are_restored_as_the_official_code_does(official, pictures, tmp_path):
    import_official(official, tmp_path / "store", ImageFiles(pictures), show=False)
    store = SoftLabelStore(tmp_path / "store")
    line = (official / "logits_top5_epoch7" / "rank0-keys.txt").read_text().split().index("09")
    record = (official / "logits_top5_epoch7" / "rank0-values.bin").read_bytes()[line * 24 : line * 24 + 24]
    seed, *index = struct.unpack("<i5h", record[:14])
    probability = np.frombuffer(record[14:], "<f2").astype(float)
    row = store.rows([9], [1])
    assert (row["seed"][0], row["index"][0].tolist(), row["argmax"][0]) == (seed, index, index[0])
    labels = restore(row, store.layout)
    np.testing.assert_allclose(labels.probability[0], probability, rtol=2e-3)
    assert float(labels.residual[0]) == pytest.approx(1 - probability.sum(), abs=1e-3)
    with pytest.raises(InputError, match=r"holds temperatures \(1\.0,\), not 3"):
        restore(row, store.layout, 3.0)


def test_imported_labels_are_served_with_views_of_our_own(official, pictures, tmp_path):
    import_official(official, tmp_path / "store", ImageFiles(pictures), show=False)
    store, images = SoftLabelStore(tmp_path / "store"), ImageFiles(pictures)
    rows = store.rows([4, 4], [0, 1])
    params = [ViewParams.unpack(row["params"].tobytes()) for row in rows]
    assert params[0] != params[1]
    assert all(view.width * view.height > 0.4 * view.source_size[0] * view.source_size[1] for view in params)
    batch = StoredViews(store, images, 16).__getitems__([(4, 0), (9, 1)])
    assert batch["inputs"].shape == (2, 16, 16, 3)


def test_imported_labels_are_not_served_mixed(official, pictures, tmp_path):
    with pytest.raises(InputError, match="views that are not mixed"):
        import_official(official, tmp_path / "s", ImageFiles(pictures), sampler=ViewSampler(mixup=0.8), show=False)


def test_class_count_and_k_come_from_the_files(official, pictures, tmp_path):
    summary = import_official(official, tmp_path / "store", ImageFiles(pictures), show=False)
    assert (summary.classes, summary.classes_from) == (30, "largest index")
    with pytest.raises(InputError, match="has class index 29, and 20 classes were given"):
        import_official(official, tmp_path / "other", ImageFiles(pictures), classes=20, show=False)


def test_class_indices_that_wrapped_around_are_mended(pictures, tmp_path):
    source = write_official(tmp_path / "x", {0: [list(range(COUNT))]}, classes=40_000)
    summary = import_official(source, tmp_path / "store", ImageFiles(pictures), classes=40_000, show=False)
    assert SoftLabelStore(tmp_path / "store").rows(np.arange(COUNT), np.zeros(COUNT))["index"].max() > 32_767
    export_official(SoftLabelStore(tmp_path / "store"), tmp_path / "back", show=False)
    assert files(tmp_path / "back") == files(source)
    assert summary.classes == 40_000


def test_images_without_a_record_are_left_out(pictures, tmp_path):
    source = write_official(tmp_path / "x", {0: [list(range(COUNT))], 1: [list(range(1, COUNT))]})
    summary = import_official(source, tmp_path / "store", ImageFiles(pictures), show=False)
    assert summary.incomplete == 1
    assert SoftLabelStore(tmp_path / "store").invalid_images() == {0: "no valid record in epoch 1"}
    export_official(SoftLabelStore(tmp_path / "store"), tmp_path / "back", show=False)
    assert files(tmp_path / "back") == files(source)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.25, 0.0])
def test_a_record_that_is_no_probability_is_left_out_and_given_back(official, pictures, tmp_path, value):
    path = official / "logits_top5_epoch7" / "rank0-values.bin"
    records = np.frombuffer(path.read_bytes(), record_type(5)).copy()
    lines = (official / "logits_top5_epoch7" / "rank0-keys.txt").read_text().split()
    records["prob"][lines.index("09")] = value
    path.write_bytes(records.tobytes())
    summary = import_official(official, tmp_path / "store", ImageFiles(pictures), show=False)
    assert summary.incomplete == 1
    assert SoftLabelStore(tmp_path / "store").invalid_images() == {9: "no valid record in epoch 7"}
    export_official(SoftLabelStore(tmp_path / "store"), tmp_path / "back", show=False)
    assert files(tmp_path / "back") == files(official)


@pytest.mark.parametrize("ranks", [1, 3])
def test_our_labels_in_the_official_layout(store, pictures, tmp_path, ranks):
    summary = export_official(store, tmp_path / "out", ranks=ranks, show=False)
    assert (summary.epochs, summary.records, summary.seeds) == ([0, 1, 2], 3 * COUNT, False)
    import_official(tmp_path / "out", tmp_path / "store", ImageFiles(pictures), classes=20, show=False)
    again = SoftLabelStore(tmp_path / "store")
    images, views = np.repeat(np.arange(COUNT), 3), np.tile(np.arange(3), COUNT)
    one, other = restore(store.rows(images, views), store.layout), restore(again.rows(images, views), again.layout)
    assert np.array_equal(one.index, other.index)
    np.testing.assert_allclose(one.probability, other.probability, rtol=2e-3, atol=1e-6)


def test_files_that_are_not_of_this_layout_are_named(official, pictures, tmp_path):
    images = ImageFiles(pictures)
    with pytest.raises(InputError, match="holds no folder logits_top"):
        import_official(pictures, tmp_path / "a", images, show=False)
    values = official / "logits_top5_epoch7" / "rank0-values.bin"
    content = values.read_bytes()
    values.write_bytes(content[:-1])
    with pytest.raises(InputError, match=rf"rank0-values\.bin has {len(content) - 1} bytes; its 23 keys at K = 5 ask"):
        import_official(official, tmp_path / "b", images, show=False)
    values.write_bytes(content)
    keys = official / "logits_top5_epoch7" / "rank0-keys.txt"
    text = keys.read_text()
    keys.write_text(text.replace("09\n", "99\n"))
    with pytest.raises(InputError, match="has the key '99', and no image has it as its stem"):
        import_official(official, tmp_path / "c", images, show=False)
    keys.write_text(text.rstrip("\n"))
    with pytest.raises(InputError, match="one key per line"):
        import_official(official, tmp_path / "d", images, show=False)
