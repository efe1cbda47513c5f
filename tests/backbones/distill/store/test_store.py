"""The store: its bytes, reading, and one test for each way in which it can be broken."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tinyvit.backbones.distill.augment import ViewSampler
from tinyvit.backbones.distill.label import label_store
from tinyvit.backbones.distill.replay import open_for_training
from tinyvit.backbones.distill.store import Manifest, ShardIndex, SoftLabelStore, TensorFile, write_tensors
from tinyvit.backbones.distill.store.manifest import content_hash
from tinyvit.backbones.distill.tools import describe_store, verify_store
from tinyvit.core.errors import InputError
from tinyvit.core.images.files import ImageFiles

from ..conftest import options, tiny_teacher


@pytest.fixture
def copy(store, tmp_path) -> Path:
    return Path(shutil.copytree(store.path, tmp_path / "store"))


def first_shard(path: Path) -> Path:
    return sorted((path / "teachers").glob("*/shards/*.safetensors"))[0]


# --- tensor files -------------------------------------------------------------


def test_tensor_file_has_golden_bytes(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"b": np.array([1, 2], np.uint64), "a": np.array([[3]], np.uint8)}, {"z": "1", "k": "v"})
    header = (
        b'{"__metadata__":{"k":"v","z":"1"},"b":{"dtype":"U64","shape":[2],"data_offsets":[0,16]},'
        b'"a":{"dtype":"U8","shape":[1,1],"data_offsets":[16,17]}}'
    )
    length = -(-(8 + len(header)) // 64) * 64 - 8
    assert path.read_bytes() == (
        length.to_bytes(8, "little") + header.ljust(length) + bytes([1, *[0] * 7, 2, *[0] * 7]) + b"\x03"
    )
    assert load_file(path)["b"].tolist() == [1, 2]  # the format's own library reads it


@pytest.mark.parametrize("cut", [0, 4, 30, -1])
def test_truncated_tensor_file_is_named(tmp_path, cut):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": np.arange(100, dtype=np.uint32)}, {})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"x\.safetensors is truncated"):
        TensorFile(path)


def test_tensor_file_with_more_than_its_header_says_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": np.arange(100, dtype=np.uint32)}, {})
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(InputError, match="too long"):
        TensorFile(path)


def test_nothing_is_left_under_a_temporary_name(store):
    assert not list(store.path.rglob("*.tmp"))


# --- manifest -----------------------------------------------------------------


def test_manifest_is_the_sorted_list_with_hashes(store, pictures):
    images = ImageFiles(pictures)
    manifest = store.manifest
    assert list(manifest) == sorted(path.name for path in pictures.iterdir())
    assert manifest.content[3].tobytes() == content_hash(images.read(images[3]))
    path = store.path / "manifest.safetensors"
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    assert manifest.sha256 == hashlib.sha256(data[start:]).hexdigest() == store.header.manifest_sha256


def test_manifest_of_a_zip_equals_that_of_the_folder(pictures, tmp_path):
    zipped = shutil.make_archive(str(tmp_path / "pictures"), "zip", pictures)
    folder = Manifest.build(ImageFiles(pictures), tmp_path / "a.safetensors")
    archive = Manifest.build(ImageFiles(zipped), tmp_path / "b.safetensors")
    assert folder.sha256 == archive.sha256


def test_other_images_are_named_on_both_sides(store, pictures, tmp_path):
    other = Path(shutil.copytree(pictures, tmp_path / "other"))
    (other / "03.jpg").rename(other / "03x.jpg")
    with pytest.raises(InputError, match=r"1 missing here \(first: 03\.jpg\), 1 new \(first: 03x\.jpg\);"):
        store.manifest.check_images(ImageFiles(other), "the store")
    (other / "03x.jpg").unlink()
    with pytest.raises(InputError, match=r"holds 22 images and the store was made from 23"):
        store.manifest.check_images(ImageFiles(other), "the store")


def test_changed_file_is_noticed_by_size_and_by_content(store, pictures, tmp_path):
    other = Path(shutil.copytree(pictures, tmp_path / "other"))
    data = bytearray((other / "03.jpg").read_bytes())
    data[-10] ^= 1
    (other / "03.jpg").write_bytes(bytes(data))
    images = ImageFiles(other)
    store.manifest.check_images(images, "the store")
    with pytest.raises(InputError, match=r"03\.jpg is not the file"):
        store.manifest.read(images, 3, "the store")
    (other / "03.jpg").write_bytes(bytes(data) + b"!")
    with pytest.raises(InputError, match=r"03\.jpg has \d+ bytes"):
        store.manifest.check_images(images, "the store")


# --- rows ---------------------------------------------------------------------


def test_rows_come_in_any_order_from_any_shard(store):
    rng = np.random.default_rng(0)
    images = rng.integers(0, store.header.images, 200)
    views = rng.integers(0, store.header.views, 200)
    rows = store.rows(images, views)
    for at, (image, view) in enumerate(zip(images.tolist(), views.tolist(), strict=True)):
        assert rows[at] == store.rows([image], [view])[0] == store.row(image, view)[0]
    everything = np.concatenate([store.map_shard(shard) for shard in store.shards()])
    assert len(everything) == store.header.images * store.header.views
    assert len({row.tobytes() for row in everything}) == len(everything)


def test_rows_outside_the_store_are_refused(store):
    with pytest.raises(InputError, match="images 0 to 22"):
        store.rows([23], [0])
    with pytest.raises(InputError, match="views 0 to 2"):
        store.rows([0], [3])
    with pytest.raises(InputError, match="images 0 to 22, not -1 to -1"):
        store.row(-1, 0)
    with pytest.raises(InputError, match="views 0 to 2, not 3 to 3"):
        store.row(0, 3)


def test_store_travels_to_another_process(store):
    again = pickle.loads(pickle.dumps(store))
    assert (again.rows([4], [1]) == store.rows([4], [1])).all()


# --- broken stores ------------------------------------------------------------


def test_no_store(tmp_path):
    with pytest.raises(InputError, match=r"has no store\.json"):
        SoftLabelStore(tmp_path)


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("store", "format", "other", "not the header of a soft-label store"),
        ("store", "schema_version", 1, "schema version 1, and this tinyvit reads version 2"),
        ("store", "manifest", None, "it has no key 'manifest'"),
        ("labels", "schema_version", 3, "schema version 3, and this tinyvit reads version 2"),
        ("labels", "topk", 6, "row layout does not fit K = 6"),
        ("labels", "coding", "9 bits", "has coding '9 bits'; this tinyvit reads full, compact, official"),
        ("labels", "teacher", None, "it has no key 'teacher'"),
        ("labels", "topk", "five", "topk is 'five' and must be a positive whole number"),
        ("labels", "view_blocks", [], r"view_blocks are \[\], not consecutive ranges from 0"),
        ("labels", "view_blocks", [[0, 2.5]], r"view_blocks are \[\[0, 2\.5\]\], not consecutive ranges"),
        ("labels", "view_blocks", [[0, 2], [3, 4]], "not consecutive ranges from 0"),
        ("labels", "view_blocks", [[0, 2, 3]], "a value has a wrong type"),
        ("labels", "pixels", {"hash_size": [8, 8]}, "pixels has no key 'hash_every'"),
        (
            "labels",
            "temperatures",
            [1, 2, 3, 8],
            r"temperatures is \[1, 2, 3, 8\], and must be \[1\.0, 2",
        ),
        ("labels", "extra", 1, "extra is 1, and must be None"),
        ("labels", "view_blocks", 3, "a wrong type"),
        ("labels", "store", "0" * 64, "belongs to store '0000"),
    ],
)
def test_header_that_cannot_be_used(copy, file, key, value, message):
    path = copy / "store.json" if file == "store" else next(copy.glob("teachers/*/labels.json"))
    document = json.loads(path.read_text())
    document[key] = value
    if value is None:
        del document[key]
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=message):
        SoftLabelStore(copy)


def test_header_that_is_no_object(copy):
    (copy / "store.json").write_text("[]")
    with pytest.raises(InputError, match="not the header of a soft-label store"):
        SoftLabelStore(copy)


def test_header_that_is_no_json(copy):
    (copy / "store.json").write_text('{"format": ')
    with pytest.raises(InputError, match="not JSON"):
        SoftLabelStore(copy)


def test_truncated_shard_is_named(copy):
    shard = first_shard(copy)
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(InputError, match=rf"{shard.name} is truncated"):
        SoftLabelStore(copy).rows([0], [0])


def test_flipped_bit_in_a_row_is_noticed_when_it_is_read(copy):
    shard = first_shard(copy)
    data = bytearray(shard.read_bytes())
    data[-30] ^= 4
    shard.write_bytes(bytes(data))
    opened = SoftLabelStore(copy)
    opened.rows([0], [0])
    with pytest.raises(InputError, match="image 5, view 1 is damaged"):
        opened.row(5, 1)
    with pytest.raises(InputError, match="image 5, view 1 is damaged"):
        opened.rows([5], [1])
    place = next(iter(opened.shards()))
    assert [problem.split(": ")[1] for problem in opened.damaged_rows(place)] == [
        "row 11 (image 5, view 1) fails its checksum"
    ]


def test_row_at_a_wrong_place_is_noticed(copy):
    shard = first_shard(copy)
    data = bytearray(shard.read_bytes())
    size = SoftLabelStore(copy).header.layout.dtype.itemsize
    data[-2 * size : -size] = data[-size:]
    shard.write_bytes(bytes(data))
    with pytest.raises(InputError, match="image 4, view 1 is damaged"):
        SoftLabelStore(copy).rows([4], [1])


def test_shard_of_another_place_is_refused(copy):
    shards = sorted((copy / "teachers").glob("*/shards/*.safetensors"))
    shutil.copy(shards[2], shards[0])
    with pytest.raises(InputError, match="has images '6-12'; its store asks for '0-6'"):
        SoftLabelStore(copy).rows([0], [0])


def test_shard_of_another_store_is_refused(copy):
    path = next(copy.glob("teachers/*/labels.json"))
    path.write_text(path.read_text().replace('"batch_size": 5', '"batch_size": 6'))
    with pytest.raises(InputError, match=r"has store '\w{64}'; its store asks for"):
        SoftLabelStore(copy).rows([0], [0])


def test_incomplete_store_says_how_many_shards(copy):
    for report in sorted((copy / "teachers").glob("*/shards/*.json"))[:3]:
        report.unlink()
    opened = SoftLabelStore(copy)
    with pytest.raises(InputError, match="5 of 8 shards are finished"):
        opened.require_complete()
    with pytest.raises(InputError, match="is not finished"):
        opened.rows([0], [0])


def test_shard_that_lost_bytes_is_found_without_reading_rows_and_can_be_made_again(copy, pictures, teacher):
    shard = sorted((copy / "teachers").glob("*/shards/*.safetensors"))[-1]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(InputError, match=rf"{shard.name} is truncated or damaged: \d+ of {len(content)} bytes"):
        SoftLabelStore(copy).require_whole()
    shard.unlink()
    with pytest.raises(InputError, match=rf"{shard.name} is missing"):
        SoftLabelStore(copy).require_whole()
    shard.with_suffix(".json").unlink()
    label_store(ImageFiles(pictures), copy, teacher, options(), show=False)
    SoftLabelStore(copy).require_whole()
    assert shard.read_bytes() == content


# --- more views, more teachers ------------------------------------------------


def test_a_finished_store_grows_by_views_and_stays_what_it_was(copy, store, pictures, teacher, tmp_path):
    before = {file: file.read_bytes() for file in copy.rglob("i0*")}
    summary = label_store(ImageFiles(pictures), copy, teacher, options(views=6), show=False)
    assert (summary.views, summary.shards, summary.shards_made) == (6, 16, 8)
    assert all(file.read_bytes() == content for file, content in before.items())
    grown = SoftLabelStore(copy)
    assert grown.header.view_blocks == ((0, 2), (2, 3), (3, 5), (5, 6))
    assert grown.header.store_id == store.header.store_id
    grown.require_whole()
    assert verify_store(grown, ImageFiles(pictures), teacher, show=False).problems == []
    # A view does not depend on when it was asked for.
    label_store(ImageFiles(pictures), tmp_path / "whole", teacher, options(views=6), show=False)
    whole = SoftLabelStore(tmp_path / "whole")
    images, views = np.repeat(np.arange(23), 6), np.tile(np.arange(6), 23)
    assert np.array_equal(whole.rows(images, views)["params"], grown.rows(images, views)["params"])
    assert np.array_equal(whole.rows(images, views)["index"], grown.rows(images, views)["index"])


def test_a_grown_store_is_incomplete_until_it_is_labelled(copy):
    opened = SoftLabelStore(copy)
    grown = opened.grow(opened.header.grown(5, block=2))
    with pytest.raises(InputError, match="8 of 12 shards are finished"):
        grown.require_complete()
    assert (grown.rows([3], [2]) == opened.rows([3], [2])).all()
    with pytest.raises(InputError, match="5 views, and this run asks for 3"):
        grown.grow(opened.header)


def test_a_second_teacher_with_other_classes_and_k_looks_at_the_same_views(copy, store, pictures):
    other = tiny_teacher("other/one", seed=3, size=12, classes=7)
    asked = options(topk=3, views=2, batch_size=None, shard_images=None, name="second")
    summary = label_store(ImageFiles(pictures), copy, other, asked, show=False)
    with pytest.raises(InputError, match="holds the labels of several teachers: name one of second, toy"):
        SoftLabelStore(copy)
    first, second = SoftLabelStore.open(copy, "toy"), SoftLabelStore.open(copy, "other/one")
    assert second.name == "second"
    assert (second.header.num_classes, second.header.topk, second.header.views) == (7, 3, 2)
    assert first.header.store_id == store.header.store_id != second.header.store_id == summary.store_id
    assert first.header.base_id == second.header.base_id
    images, views = np.arange(23), np.arange(23) % 2
    assert np.array_equal(first.rows(images, views)["params"], second.rows(images, views)["params"])
    again = pickle.loads(pickle.dumps(second))
    assert (again.rows([4], [1]) == second.rows([4], [1])).all()
    assert verify_store(second, ImageFiles(pictures), other, show=False).problems == []
    with pytest.raises(InputError, match=r"holds no labels 'third'; name one of \S+ \(by other/one\), toy \(by toy\)"):
        SoftLabelStore.open(copy, "third")


def test_a_second_teacher_must_look_at_the_same_views(copy, pictures):
    other = tiny_teacher("other", seed=3)
    asked = options(name="other", sampler=ViewSampler(seed=8, scale=(0.3, 1.0)))
    with pytest.raises(InputError, match=r"made with augmentation\.seed 7, and this run asks for 8"):
        label_store(ImageFiles(pictures), copy, other, asked, show=False)
    with pytest.raises(InputError, match="cannot be named 'a b'"):
        label_store(ImageFiles(pictures), copy, other, options(name="a b"), show=False)


# --- the index ----------------------------------------------------------------


def test_the_index_says_what_the_reports_say_and_goes_when_a_shard_is_made_again(pictures, teacher, tmp_path):
    damaged = Path(shutil.copytree(pictures, tmp_path / "damaged"))
    (damaged / "07.jpg").write_bytes(b"no picture")
    label_store(ImageFiles(damaged), tmp_path / "store", teacher, options(), show=False)
    opened = SoftLabelStore(tmp_path / "store")
    index = opened.folder / "index.safetensors"
    assert index.is_file()
    said = opened.invalid_images()
    assert list(said) == [7]
    opened.require_whole()
    shard = opened.shard_path(next(opened.shards()))
    shard.write_bytes(shard.read_bytes() + b"!")
    with pytest.raises(InputError, match=rf"{shard.name} is truncated or damaged"):
        opened.require_whole()
    whole = index.read_bytes()
    index.unlink()
    assert opened.invalid_images() == said
    assert label_store(ImageFiles(damaged), tmp_path / "store", teacher, options(), show=False).shards_made == 1
    assert index.read_bytes() == whole


def test_an_index_that_says_other_things_is_found(copy, pictures, teacher):
    opened = SoftLabelStore(copy)
    index = ShardIndex.gather([opened.report(shard) for shard in opened.shards()])
    ShardIndex(index.sizes, index.sha256, np.array([3, 4], np.uint64), ["no", "no"]).write(opened.folder, opened.header)
    report = verify_store(opened, ImageFiles(pictures), teacher, show=False)
    assert report.problems == [
        f"{opened.folder / 'index.safetensors'} differs from the .json files of the shards; delete it"
    ]
    path = opened.folder / "index.safetensors"
    for damaged in (path.read_bytes()[:-1], path.read_bytes()[:-1] + b"?"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"index\.safetensors is .*; delete it: it only repeats the \.json files"):
            opened.require_whole()
        (problem,) = verify_store(opened, show=False).problems
        assert "delete it" in problem
    path.unlink()
    assert verify_store(opened, ImageFiles(pictures), teacher, show=False).problems == []


def test_an_index_of_fewer_views_is_not_believed(copy):
    opened = SoftLabelStore(copy)
    grown = opened.grow(opened.header.grown(4, block=1))
    assert (opened.folder / "index.safetensors").is_file()
    assert grown.index() is None
    assert not grown.write_index()


# --- many images --------------------------------------------------------------


def test_many_images_are_opened_without_being_listed(store, pictures, tmp_path, monkeypatch):
    from tinyvit.backbones.distill.store import manifest as module

    monkeypatch.setattr(module, "MANY_IMAGES", 10)
    other = Path(shutil.copytree(pictures, tmp_path / "other"))
    (other / "one more.jpg").write_bytes(b"")
    monkeypatch.setattr(ImageFiles, "_list_folder", lambda *_: pytest.fail("the folder was listed"))
    images = store.manifest.open_images(other, "the store", store.path)
    assert list(images) == list(store.manifest)
    assert store.manifest.read(images, 3, "the store") == (pictures / "03.jpg").read_bytes()
    (other / "03.jpg").write_bytes(b"123")
    with pytest.raises(InputError, match=r"03\.jpg has 3 bytes"):
        store.manifest.open_images(other, "the store")
    (other / "03.jpg").unlink()
    with pytest.raises(InputError, match=r"03\.jpg is missing"):
        store.manifest.open_images(other, "the store")


def test_places_in_archives_are_kept_with_the_store(pictures, teacher, tmp_path, monkeypatch):
    from tinyvit.backbones.distill.store import manifest as module
    from tinyvit.core.images import archives

    zipped = shutil.make_archive(str(tmp_path / "pictures"), "zip", pictures)
    label_store(ImageFiles(zipped), tmp_path / "store", teacher, options(views=1), show=False)
    opened = SoftLabelStore(tmp_path / "store")
    monkeypatch.setattr(module, "MANY_IMAGES", 10)
    monkeypatch.setattr(archives, "_walk", lambda *_: pytest.fail("the archive was listed"))
    images = opened.manifest.open_images(zipped, "the store", opened.path)
    assert opened.manifest.read(images, 3, "the store") == (pictures / "03.jpg").read_bytes()
    # The same images packed otherwise: what is kept does not fit any more, and the archive is
    # listed.
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(pictures.iterdir(), reverse=True):
            archive.write(path, path.name)
    monkeypatch.undo()
    monkeypatch.setattr(module, "MANY_IMAGES", 10)
    images = opened.manifest.open_images(zipped, "the store", opened.path)
    assert opened.manifest.read(images, 3, "the store") == (pictures / "03.jpg").read_bytes()


def test_a_damaged_manifest_is_called_so_and_not_other_images(copy, pictures, teacher):
    path = copy / "manifest.safetensors"
    path.write_bytes(path.read_bytes().replace(b"03.jpg", b"0x.jpg"))
    with pytest.raises(InputError, match=r"manifest\.safetensors is damaged: its hash is not the one in store\.json"):
        label_store(ImageFiles(pictures), copy, teacher, options(), show=False)
    report = verify_store(SoftLabelStore(copy), ImageFiles(pictures), show=False)
    assert [problem.split(": ")[0] for problem in report.problems] == [f"{path} is damaged"]
    with pytest.raises(InputError, match=r"manifest\.safetensors is damaged"):
        open_for_training(copy, pictures, None, "error")
    with pytest.raises(InputError, match=r"manifest\.safetensors is damaged"):
        describe_store(SoftLabelStore(copy))


def test_a_store_without_its_header_is_not_made_anew(copy, pictures, teacher):
    (copy / "store.json").unlink()
    message = r"lacks its store\.json; take it from a copy"
    with pytest.raises(InputError, match=message):
        SoftLabelStore(copy)
    with pytest.raises(InputError, match=message):
        label_store(ImageFiles(pictures), copy, teacher, options(), show=False)


def test_opening_takes_the_same_memory_for_any_number_of_images(tmp_path):
    """Allocations, counted: what grows with the images must be mapped, not read."""
    import tracemalloc

    from tinyvit.benchmarks.distill.store import make_scale

    peaks = []
    for images in (20_000, 400_000):
        made = make_scale(tmp_path / str(images), images, 2, reads=64, shard_images=images // 10)
        tracemalloc.start()
        opened = SoftLabelStore(made.path)
        opened.require_whole()
        assert opened.invalid_images() == {}
        assert opened.manifest[images - 1].endswith(f"{images - 1:08d}.JPEG")
        places = np.load(made.path / "written.npy")
        assert opened.valid_rows(opened.rows(places[:, 0], places[:, 1])).all()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000


def test_more_shards_than_a_process_may_have_files_open_are_read(tmp_path):
    import resource

    from tinyvit.benchmarks.distill.store import make_scale

    made = make_scale(tmp_path / "store", 400, 1, reads=400, shard_images=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        places = np.load(made.path / "written.npy")
        opened = SoftLabelStore(made.path)
        opened.rows(places[:, 0], places[:, 1])
        assert len(opened._mapped) == len(np.unique(places[:, 0])) > 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
