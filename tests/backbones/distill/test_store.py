"""The store: its bytes, reading, and one test for each way in which it can be broken."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tinyvit.backbones.distill.manifest import Manifest, content_hash
from tinyvit.backbones.distill.store import SoftLabelStore
from tinyvit.backbones.distill.tensorfile import TensorFile, write_tensors
from tinyvit.backbones.errors import InputError
from tinyvit.backbones.images import ImageFiles


@pytest.fixture
def copy(store, tmp_path) -> Path:
    return Path(shutil.copytree(store.path, tmp_path / "store"))


def first_shard(path: Path) -> Path:
    return sorted((path / "shards").glob("*.safetensors"))[0]


# --- tensor files ------------------------------------------------------------------------------------------------


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


# --- manifest ----------------------------------------------------------------------------------------------------


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
    with pytest.raises(InputError, match=r"'03x\.jpg' here against '03\.jpg' in the store"):
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


# --- rows --------------------------------------------------------------------------------------------------------


def test_rows_come_in_any_order_from_any_shard(store):
    rng = np.random.default_rng(0)
    images = rng.integers(0, store.header.images, 200)
    views = rng.integers(0, store.header.views, 200)
    rows = store.rows(images, views)
    for at in (0, 57, 199):
        assert rows[at] == store.rows([images[at]], [views[at]])[0]
    everything = np.concatenate([store.map_shard(shard) for shard in store.shards()])
    assert len(everything) == store.header.images * store.header.views
    assert len({row.tobytes() for row in everything}) == len(everything)


def test_a_reader_made_from_the_page_alone_agrees(store):
    """Offsets, types and order as FORMAT.md gives them, without any code of the store's."""
    header = json.loads((store.path / "store.json").read_text())
    fields = {field["name"]: field for field in header["row"]["fields"]}
    image, view = 8, 2
    step = header["shard_images"]
    begin = image // step * step
    end = min(begin + step, header["manifest"]["images"])
    first, last = next(block for block in header["view_blocks"] if block[0] <= view < block[1])
    data = (store.path / "shards" / f"i{begin:08d}-{end:08d}_v{first:04d}-{last:04d}.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    tensor = json.loads(data[8 : 8 + length])["rows"]
    row = (view - first) * (end - begin) + (image - begin)
    at = 8 + length + tensor["data_offsets"][0] + row * header["row"]["bytes"]
    found = store.rows([image], [view])[0]
    for name, size in (("lse", 4), ("logp", 2), ("index", 2), ("argmax", 2), ("params", 1), ("flags", 1)):
        start = at + fields[name]["offset"]
        assert data[start : start + size * fields[name]["count"]] == np.asarray(found[name]).tobytes(), name
    assert found["argmax"] == found["index"][0]
    assert found["flags"] == 1


def test_rows_outside_the_store_are_refused(store):
    with pytest.raises(InputError, match="images 0 to 22"):
        store.rows([23], [0])
    with pytest.raises(InputError, match="views 0 to 2"):
        store.rows([0], [3])


def test_store_travels_to_another_process(store):
    again = pickle.loads(pickle.dumps(store))
    assert (again.rows([4], [1]) == store.rows([4], [1])).all()


# --- broken stores -----------------------------------------------------------------------------------------------


def test_no_store(tmp_path):
    with pytest.raises(InputError, match=r"has no store\.json"):
        SoftLabelStore(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "other", "not the header of a soft-label store"),
        ("schema_version", 2, "schema version 2; this tinyvit reads version 1"),
        ("topk", 6, "row layout does not fit K = 6"),
        ("teacher", None, "it has no key 'teacher'"),
        ("topk", "five", "topk is 'five', which is no count"),
        ("view_blocks", 3, "of a wrong kind"),
    ],
)
def test_header_that_cannot_be_used(copy, key, value, message):
    path = copy / "store.json"
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
    shards = sorted((copy / "shards").glob("*.safetensors"))
    shutil.copy(shards[2], shards[0])
    with pytest.raises(InputError, match="has images '6-12'; its store asks for '0-6'"):
        SoftLabelStore(copy).rows([0], [0])


def test_shard_of_another_store_is_refused(copy):
    path = copy / "store.json"
    path.write_text(path.read_text().replace('"seed": 7', '"seed": 8'))
    with pytest.raises(InputError, match=r"has store '\w{64}'; its store asks for"):
        SoftLabelStore(copy).rows([0], [0])


def test_incomplete_store_says_how_many_shards(copy):
    for report in sorted((copy / "shards").glob("*.json"))[:3]:
        report.unlink()
    opened = SoftLabelStore(copy)
    with pytest.raises(InputError, match="5 of 8 shards are finished"):
        opened.require_complete()
    with pytest.raises(InputError, match="is not finished"):
        opened.rows([0], [0])


def test_shard_that_lost_bytes_is_found_without_reading_rows_and_can_be_made_again(copy, pictures, teacher):
    from tinyvit.backbones.distill.label import label_store

    from .conftest import options

    shard = sorted((copy / "shards").glob("*.safetensors"))[-1]
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
