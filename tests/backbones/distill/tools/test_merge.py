"""Merging of stores that were labelled in parts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tinyvit.backbones.distill.augment import ViewSampler
from tinyvit.backbones.distill.label import label_store
from tinyvit.backbones.distill.store import SoftLabelStore
from tinyvit.backbones.distill.tools import export_official, import_official, merge_stores
from tinyvit.core.errors import InputError
from tinyvit.core.images.files import ImageFiles

from ..conftest import options, tiny_teacher


def part(store: SoftLabelStore, path: Path, numbers: set[int]) -> Path:
    """A copy of a store in which only the shards of these numbers are finished."""
    shutil.copytree(store.path, path)
    copy = SoftLabelStore(path)
    (copy.folder / "index.safetensors").unlink()
    for number, shard in enumerate(copy.shards()):
        if number not in numbers:
            copy.report_path(shard).unlink()
            copy.shard_path(shard).unlink()
    return path


def files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_parts_become_the_whole_store(store, tmp_path):
    one, two = part(store, tmp_path / "one", {0, 1, 2, 5}), part(store, tmp_path / "two", {2, 3, 4, 6, 7})
    before = files(one), files(two)
    summary = merge_stores(tmp_path / "all", [one, two], show=False)
    assert (summary.copied, summary.kept, summary.missing, summary.problems) == ({"toy": 8}, {"toy": 0}, {"toy": 0}, [])
    assert files(tmp_path / "all") == files(store.path)
    assert (files(one), files(two)) == before
    again = merge_stores(tmp_path / "all", [one], show=False)
    assert (again.copied, again.kept) == ({"toy": 0}, {"toy": 8})


def test_parts_labelled_on_machines_that_share_nothing_are_merged(store, pictures, teacher, tmp_path):
    parts = [tmp_path / str(number) for number in (1, 2, 3)]
    for number, path in enumerate(parts, start=1):
        summary = label_store(ImageFiles(pictures), path, teacher, options(part=(number, 3)), show=False)
        assert (summary.shards_made, summary.finished, summary.shards) == ((3, 3, 2)[number - 1],) * 2 + (8,)
    merge_stores(tmp_path / "all", parts, show=False)
    assert files(tmp_path / "all") == files(store.path)
    with pytest.raises(InputError, match="part 4 of 3 does not exist; parts count from 1"):
        options(part=(4, 3))
    with pytest.raises(InputError, match=r"part 9 of 9 of .* holds none of its 8 shards"):
        label_store(ImageFiles(pictures), tmp_path / "none", teacher, options(part=(9, 9)), show=False)


def test_stores_of_other_images_are_named(store, pictures, teacher, tmp_path):
    fewer = Path(shutil.copytree(pictures, tmp_path / "fewer"))
    (fewer / "07.jpg").unlink()
    label_store(ImageFiles(fewer), tmp_path / "a", teacher, options(), show=False)
    with pytest.raises(InputError, match=r"they were made from 23 and 22 images, and .*/a lacks 07\.jpg"):
        merge_stores(tmp_path / "all", [store.path, tmp_path / "a"], show=False)
    shutil.copy(pictures / "08.jpg", fewer / "07.jpg")
    label_store(ImageFiles(fewer), tmp_path / "b", teacher, options(), show=False)
    with pytest.raises(InputError, match=r"same names and different contents \(first: 07\.jpg\)"):
        merge_stores(tmp_path / "all", [store.path, tmp_path / "b"], show=False)
    with pytest.raises(InputError, match=r"fewer is not a soft-label store: it has no store\.json"):
        merge_stores(tmp_path / "all", [store.path, fewer], show=False)


def test_a_part_becomes_whole_by_another(store, tmp_path):
    one, two = part(store, tmp_path / "one", {0, 1}), part(store, tmp_path / "two", {2, 3, 4})
    summary = merge_stores(one, [two], show=False)
    assert (summary.copied, summary.kept, summary.missing) == ({"toy": 3}, {"toy": 2}, {"toy": 3})
    with pytest.raises(InputError, match="5 of 8 shards are finished"):
        SoftLabelStore(one).require_complete()


def test_more_views_and_another_teacher_come_along(store, pictures, teacher, tmp_path):
    grown, second = tmp_path / "grown", tmp_path / "second"
    shutil.copytree(store.path, grown)
    label_store(ImageFiles(pictures), grown, teacher, options(views=4), show=False)
    label_store(ImageFiles(pictures), second, tiny_teacher("other", 1, classes=9), options(topk=3), show=False)
    merge_stores(tmp_path / "all", [store.path, grown, second], show=False)
    first, other = SoftLabelStore.open(tmp_path / "all", "toy"), SoftLabelStore.open(tmp_path / "all", "other")
    assert (first.header.views, other.header.num_classes) == (4, 9)
    first.require_whole()
    other.require_whole()


def test_conflicts_are_named_and_nothing_is_copied(store, pictures, teacher, tmp_path):
    one, two = part(store, tmp_path / "one", {0, 1}), part(store, tmp_path / "two", {1, 2})
    report = SoftLabelStore(two).report_path(list(store.shards())[1])
    document = json.loads(report.read_text())
    report.write_text(json.dumps({**document, "sha256": "0" * 64}))
    with pytest.raises(
        InputError, match=r"1 pair of files that should be equal differ.*one/.*v0000-0002.* and .*two/.*v0000-0002"
    ):
        merge_stores(tmp_path / "all", [one, two], show=False)
    assert not (tmp_path / "all").exists()
    other = tmp_path / "other"
    label_store(ImageFiles(pictures), other, teacher, options(sampler=ViewSampler(seed=8)), show=False)
    with pytest.raises(InputError, match=r"cannot be merged: the one has augmentation\.seed 7, and the other 8"):
        merge_stores(tmp_path / "all", [store.path, other], show=False)
    shutil.rmtree(other)
    label_store(ImageFiles(pictures), other, tiny_teacher(seed=1), options(), show=False)
    with pytest.raises(InputError, match=r"labels 'toy' of .* the one has teacher\.weights_sha256"):
        merge_stores(tmp_path / "all", [store.path, other], show=False)
    with pytest.raises(InputError, match="neither empty nor"):
        merge_stores(pictures, [store.path], show=False)


def test_views_cut_into_other_blocks_are_a_conflict(store, pictures, teacher, tmp_path):
    other = tmp_path / "other"
    label_store(ImageFiles(pictures), other, teacher, options(views_per_shard=1), show=False)
    with pytest.raises(InputError, match="their views are cut into blocks"):
        merge_stores(tmp_path / "all", [store.path, other], show=False)


def test_a_damaged_shard_is_named_and_taken_from_whoever_has_it_whole(store, tmp_path):
    one, two = part(store, tmp_path / "one", set(range(8))), part(store, tmp_path / "two", {1})
    shards = list(store.shards())
    for number in (1, 3):
        path = SoftLabelStore(one).shard_path(shards[number])
        data = bytearray(path.read_bytes())
        data[-9] ^= 1
        path.write_bytes(bytes(data))
    summary = merge_stores(tmp_path / "all", [one, two], show=False)
    assert (summary.copied, summary.missing) == ({"toy": 7}, {"toy": 1})
    assert [shards[1].name in summary.problems[0], shards[3].name in summary.problems[1]] == [True, True]
    assert all("fails its checksum" in problem for problem in summary.problems)
    assert SoftLabelStore(tmp_path / "all").is_finished(shards[1])


def test_a_damaged_shard_of_the_merged_store_is_replaced_by_a_whole_one(store, tmp_path):
    one, two = part(store, tmp_path / "one", set(range(8))), part(store, tmp_path / "two", {1, 2})
    merged, shards = SoftLabelStore(one), list(store.shards())
    merged.write_index()
    cut, flipped, nowhere = (merged.shard_path(shards[number]) for number in (1, 2, 3))
    cut.write_bytes(cut.read_bytes()[:-100])
    for path in (flipped, nowhere):
        data = bytearray(path.read_bytes())
        data[-9] ^= 1
        path.write_bytes(bytes(data))
    summary = merge_stores(one, [two], show=False)
    assert (summary.copied, summary.kept, summary.missing) == ({"toy": 2}, {"toy": 5}, {"toy": 1})
    assert [path.name in problem for path, problem in zip((cut, flipped, nowhere), summary.problems, strict=True)] == [
        True
    ] * 3
    shutil.copy(store.shard_path(shards[3]), nowhere)
    assert merge_stores(one, [two], show=False).problems == []
    assert files(one) == files(store.path)


def test_imported_labels_can_be_exported_after_a_merge(store, pictures, tmp_path):
    export_official(store, tmp_path / "logits", show=False)
    import_official(tmp_path / "logits", tmp_path / "imported", ImageFiles(pictures), classes=20, show=False)
    merge_stores(tmp_path / "all", [tmp_path / "imported"], show=False)
    export_official(SoftLabelStore(tmp_path / "all"), tmp_path / "back", show=False)
    assert files(tmp_path / "back") == files(tmp_path / "logits")
    shutil.copytree(tmp_path / "imported", tmp_path / "other")
    origin = next((tmp_path / "other").rglob("origin/epoch0.safetensors"))
    origin.write_bytes(origin.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match=r"imported/.*epoch0\.safetensors and .*other/.*epoch0\.safetensors"):
        merge_stores(tmp_path / "new", [tmp_path / "imported", tmp_path / "other"], show=False)
