"""Views with every operation through a store: labelled, made again, and verified."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tinyvit.backbones.distill.augment import (
    ViewParams,
    ViewSampler,
    apply,
    partners,
    pixel_hash,
    record,
    require_recordable,
)
from tinyvit.backbones.distill.label import label_store
from tinyvit.backbones.distill.replay import open_for_training, pixel_problem, render
from tinyvit.backbones.distill.store import SoftLabelStore, TensorFile, restore, write_tensors
from tinyvit.backbones.distill.tools import verify_store
from tinyvit.core.errors import InputError
from tinyvit.core.images.files import ImageFiles

from ..conftest import COUNT, options

BROKEN = 9
SAMPLERS = {name: ViewSampler.preset(name, seed=7) for name in ("tinyvit", "deit", "deit3")}


@pytest.fixture(scope="module")
def folder(pictures, tmp_path_factory) -> Path:
    """The images, one of which cannot be read."""
    path = Path(shutil.copytree(pictures, tmp_path_factory.mktemp("mixed") / "pictures"))
    (path / f"{BROKEN:02d}.jpg").write_bytes(b"no picture")
    return path


@pytest.fixture(scope="module")
def mixed(folder, teacher, tmp_path_factory) -> dict[str, SoftLabelStore]:
    stores = {}
    for name, sampler in SAMPLERS.items():
        path = tmp_path_factory.mktemp("stores") / name
        label_store(ImageFiles(folder), path, teacher, options(sampler=sampler), show=False)
        stores[name] = SoftLabelStore(path)
    return stores


def places(store: SoftLabelStore) -> tuple[list[int], list[int]]:
    readable = [image for image in range(COUNT) if image != BROKEN]
    return readable * store.header.views, np.repeat(np.arange(store.header.views), len(readable)).tolist()


@pytest.mark.parametrize("name", SAMPLERS)
def test_records_are_the_samplers_and_as_short_as_they_can_be(mixed, folder, name):
    store, sampler, images = mixed[name], SAMPLERS[name], ImageFiles(folder)
    ordinals, views = places(store)
    rows = store.rows(ordinals, views)
    assert rows["params"].shape[1] == sampler.record_bytes
    with_broken = 0
    for image, view, row in zip(ordinals, views, rows, strict=True):
        drawn = sampler.sample(image, view, images.open(images[image]).size, COUNT)
        if drawn.mix and drawn.mix.image == BROKEN:
            drawn, with_broken = drawn.unmixed(), with_broken + 1
        assert ViewParams.unpack(row["params"].tobytes()) == drawn
    assert with_broken > 0 or not sampler.mixes


@pytest.mark.parametrize("name", SAMPLERS)
def test_labels_and_replays_are_those_of_the_recorded_views(mixed, folder, teacher, name):
    store, images = mixed[name], ImageFiles(folder)
    ordinals, views = places(store)
    rows = store.rows(ordinals, views)
    kinds = set()
    for at in range(0, len(rows), 5):
        params = ViewParams.unpack(rows[at]["params"].tobytes())
        partner = None
        if params.mix:
            kinds.add(params.mix.kind)
            other = store.rows([params.mix.image], [params.mix.view])[0]["params"].tobytes()
            partner = images.open(images[params.mix.image]), ViewParams.unpack(other)
        picture = images.open(images[ordinals[at]])
        for size in (teacher.size, (24, 20)):
            pixels = np.array(apply(picture, params, size, partner))
            assert np.array_equal(render(store, images, ordinals[at], rows[at]["params"], size), pixels)
            if size == teacher.size:
                expected = teacher(torch.from_numpy(pixels[None])).softmax(1)
                labels = restore(rows[at : at + 1], store.layout)
                torch.testing.assert_close(labels.probability, expected.gather(1, labels.index), rtol=0.01, atol=1e-4)
    assert kinds == ({"mixup", "cutmix"} if SAMPLERS[name].mixes else set())


def test_views_do_not_depend_on_batches_shards_or_what_was_finished_before(mixed, folder, teacher, tmp_path):
    other = options(sampler=SAMPLERS["deit"], batch_size=3, shard_images=4, views_per_shard=3, views=2)
    label_store(ImageFiles(folder), tmp_path / "store", teacher, other, show=False)
    label_store(
        ImageFiles(folder),
        tmp_path / "store",
        teacher,
        options(sampler=SAMPLERS["deit"], batch_size=3, shard_images=4, views_per_shard=3),
        show=False,
    )
    store = SoftLabelStore(tmp_path / "store")
    ordinals, views = places(store)
    assert np.array_equal(store.rows(ordinals, views)["params"], mixed["deit"].rows(ordinals, views)["params"])
    assert np.array_equal(store.rows(ordinals, views)["argmax"], mixed["deit"].rows(ordinals, views)["argmax"])


def test_partners_of_many_rows_at_once(mixed):
    for name, store in mixed.items():
        rows = store.rows(*places(store))
        images, views, lam = partners(rows["params"])
        for row, image, view, share in zip(rows, images, views, lam, strict=True):
            mix = ViewParams.unpack(row["params"].tobytes()).mix
            assert (image, view, share) == ((mix.image, mix.view, np.float32(mix.lam)) if mix else (-1, 0, 1))
        assert (images >= 0).any() == SAMPLERS[name].mixes


@pytest.mark.parametrize("name", SAMPLERS)
def test_verify_makes_every_kind_of_view_again(mixed, folder, teacher, name):
    report = verify_store(mixed[name], ImageFiles(folder), teacher, sample=20, show=False)
    assert report.problems == []
    assert report.pixels >= 12
    assert report.teacher_rows > 10
    assert report.teacher_distance < 1e-3


def test_hash_is_of_the_mixed_view(mixed, folder, teacher):
    store, images = mixed["deit"], ImageFiles(folder)
    seen = 0
    for shard in store.shards():
        ordinals, views = shard.places()
        for row, expected in zip(*store.pixel_hashes(shard), strict=True):
            params = store.rows(ordinals[row : row + 1], views[row : row + 1])[0]["params"]
            pixels = render(store, images, int(ordinals[row]), params, teacher.size)
            assert pixel_hash(pixels) == expected
            mix = ViewParams.unpack(params.tobytes()).mix
            if mix and mix.lam < 0.9:
                seen += 1
                own = ViewParams.unpack(params.tobytes()).unmixed()
                alone = np.asarray(apply(images.open(images[int(ordinals[row])]), own, teacher.size))
                assert pixel_hash(alone) != expected
    assert seen > 5


def test_other_pixels_of_an_augmented_view_follow_the_policy(mixed, folder, tmp_path, capsys):
    path = Path(shutil.copytree(mixed["deit"].path, tmp_path / "store"))
    store = SoftLabelStore(path)
    for shard in map(store.shard_path, store.shards()):
        file = TensorFile(shard)
        tensors = {name: np.array(file.tensor(name)) for name in ("pixel_hash", "hash_rows", "rows")}
        tensors["pixel_hash"] ^= np.uint64(1)
        metadata = file.metadata
        write_tensors(shard, tensors, metadata)
    store.header.augmentation["libraries"]["pillow"] = "9.5.0"
    assert "pillow 9.5.0, here is pillow 1" in str(pixel_problem(store, ImageFiles(folder)))
    with pytest.raises(InputError, match="have other pixels here than the teacher"):
        open_for_training(path, folder, None, "error")
    open_for_training(path, folder, None, "warn")
    assert "warning: " in capsys.readouterr().err
    open_for_training(path, folder, None, "ignore")
    assert "warning: " not in capsys.readouterr().err


def test_changed_partner_is_named(mixed, folder, tmp_path):
    store = mixed["deit"]
    ordinals, views = places(store)
    rows = store.rows(ordinals, views)
    at = int(np.flatnonzero(partners(rows["params"])[0] >= 0)[0])
    partner = int(partners(rows["params"])[0][at])
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    name = ImageFiles(folder)[partner]
    data = bytearray((other / name).read_bytes())
    data[-10] ^= 1
    (other / name).write_bytes(bytes(data))
    with pytest.raises(InputError, match=f"{name} is not the file"):
        render(store, ImageFiles(other), ordinals[at], rows[at]["params"], (16, 16))


def test_image_of_another_size_than_recorded_is_named(mixed, folder):
    store, images = mixed["tinyvit"], ImageFiles(folder)
    params = store.rows([3], [0])[0]["params"].copy()
    params[12] += 1
    with pytest.raises(InputError, match=rf"{images[3]}: the image decodes to .* its view was made from"):
        render(store, images, 3, params, (16, 16))


def test_image_too_large_for_a_record_counts_as_unreadable(pictures, teacher, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="70000 x 3 pixels; a side may have 65,535"):
        require_recordable((70_000, 3))
    monkeypatch.setattr(record, "MAX_IMAGE_SIDE", 40)
    summary = label_store(ImageFiles(pictures), tmp_path / "store", teacher, options(views=1), show=False)
    sides = {path.name: max(Image.open(path).size) for path in sorted(pictures.iterdir())}
    assert [name for name, _ in summary.invalid] == [name for name, side in sides.items() if side > 40]
    assert "a side may have 40" in summary.invalid[0][1]
