"""Images in zip and tar archives and in lists: the same keys and bytes as loose ones, in every
kind of process.
"""

from __future__ import annotations

import io
import multiprocessing
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyvit.backbones import InputError
from tinyvit.core.images import archives as archives_module
from tinyvit.core.images.archives import KeyList, Members
from tinyvit.core.images.files import ImageFiles

NAMES = ("b/2.png", "a/1.jpg", "a/ü 3.PNG", "b/deep/4.webp", "a-b/5.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("loose") / "set"
    generator = np.random.default_rng(0)
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(root / name)
    (root / "a" / "x.gif").write_bytes(b"GIF89a")
    return root


def pack(folder: Path, target: Path, prefix: str = "", method: int = zipfile.ZIP_DEFLATED) -> Path:
    files = sorted((file for file in folder.rglob("*") if file.is_file()), reverse=True)
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w", method) as archive:
            for file in files:
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    else:
        with tarfile.open(target, "w") as archive:
            for file in files:
                archive.add(file, prefix + file.relative_to(folder).as_posix())
    return target


def contents(images: ImageFiles) -> dict[str, bytes]:
    assert [images.read_at(index) for index in range(len(images))] == [images.read(key) for key in images]
    return {key: images.read(key) for key in images}


@pytest.mark.parametrize("kind", ["x.zip", "stored.zip", "bzip2.zip", "x.tar", "dotted.tar"])
def test_an_archive_is_the_folder_that_was_packed(folder, tmp_path, kind):
    method = {"stored.zip": zipfile.ZIP_STORED, "bzip2.zip": zipfile.ZIP_BZIP2}.get(kind, zipfile.ZIP_DEFLATED)
    packed = pack(folder, tmp_path / kind, "./" if kind == "dotted.tar" else "", method)
    loose, images = ImageFiles(folder), ImageFiles(packed)
    assert list(loose) == sorted(NAMES) == list(images)
    assert contents(images) == contents(loose)
    assert images.left_out == {".gif": 1}
    assert images.sizes().tolist() == loose.sizes().tolist()
    with pytest.raises(OSError, match="no such image"):
        images.read("a/none.jpg")


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_of_archives_is_the_folder_that_they_stand_for(folder, tmp_path, suffix, inside):
    for name in ("a", "b", "a-b"):
        pack(folder / name, tmp_path / f"{name}{suffix}", f"{name}/" if inside else "")
    loose, images = ImageFiles(folder), ImageFiles(tmp_path)
    assert list(images) == list(loose)
    assert contents(images) == contents(loose)
    assert images.class_names() == ["a", "a-b", "b"]
    # With a loose image beside them, archives are not read.
    Image.new("RGB", (2, 2)).save(tmp_path / "loose.png")
    assert list(ImageFiles(tmp_path)) == ["loose.png"]
    assert ImageFiles(tmp_path).left_out == {suffix: 3}


def test_archives_whose_keys_interleave_are_one_sorted_list(folder, tmp_path):
    for name, files in (("one", ("1.png", "3.png", "5.png")), ("two", ("2.png", "3.png", "4.png"))):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for file in files:
                archive.writestr(f"{name}/{file}", f"{name} {file}")
    images = ImageFiles(tmp_path)
    assert [*images] == [f"{name}/{n}.png" for name, n in zip(["one"] * 3 + ["two"] * 3, "135234", strict=True)]
    # Two archives that unpack into one folder.
    (tmp_path / "deep").mkdir()
    for name, files in (("x", ("1.png", "3.png")), ("y", ("2.png", "3.png"))):
        with zipfile.ZipFile(tmp_path / "deep" / f"{name}.zip", "w") as archive:
            for file in files:
                archive.writestr(file, f"{name} {file}")
    both = archives_module.list_members(tmp_path / "deep", ["x.zip", "y.zip"], lambda key: True)[0]
    assert list(both) == ["x/1.png", "x/3.png", "y/2.png", "y/3.png"]
    part = archives_module._Part
    member = archives_module._Member
    parts = [
        part.of(0, {b"1": member("1", 0, 1, 1, 0, 0), b"3": member("3", 1, 1, 1, 0, 0)}),
        part.of(1, {b"2": member("2", 2, 1, 1, 0, 0), b"3": member("3", 3, 1, 1, 0, 0)}),
    ]
    merged = part.join(parts).sorted()
    assert (bytes(merged.keys), merged.columns[:, 1].tolist()) == (b"123", [0, 2, 3])


def test_of_two_members_with_one_name_the_last_counts(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for text in (b"first", b"second!"):
            info = tarfile.TarInfo("x.png")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
        link = tarfile.TarInfo("y.png")
        link.type, link.linkname = tarfile.LNKTYPE, "x.png"
        archive.addfile(link)
    images = ImageFiles(tmp_path / "x.tar")
    assert contents(images) == {"x.png": b"second!", "y.png": b"second!"}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_and_threads_read_side_by_side(folder, tmp_path, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    images = ImageFiles(pack(folder, tmp_path / "x.zip"))
    indices = list(range(len(images))) * 10
    expected = [images.read_at(index) for index in indices]  # the archive is open before the processes start
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map_async(images.read_at, indices).get(timeout=120) == expected
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(images.read_at, indices)) == expected


def test_an_archive_is_listed_once_and_opened_once(folder, tmp_path, monkeypatch):
    images = ImageFiles(pack(folder, tmp_path / "x.zip"))
    opened = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *rest, **more: opened.append(path) or real(path, *rest, **more))
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda *_, **__: pytest.fail("the list was read again"))
    for _ in range(3):
        contents(images)
    assert opened == [tmp_path / "x.zip"]


def test_damage_is_named(folder, tmp_path):
    with pytest.raises(InputError, match="neither a folder"):
        ImageFiles(_written(tmp_path / "x.tar.gz", b"\x1f\x8b123"))
    path = pack(folder, tmp_path / "x.zip", method=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    images = ImageFiles(path)
    middle = data.index((folder / "a/1.jpg").read_bytes()) + 100
    data[middle] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(OSError, match="fails its checksum"):
        images.read("a/1.jpg")
    with pytest.raises(InputError, match=r"a/1\.jpg.*checksum"):
        images.open("a/1.jpg")
    images = ImageFiles(path)
    path.write_bytes(bytes(data[: middle // 2]))
    with pytest.raises(OSError, match=r"truncated|damaged"):
        images.read("a/1.jpg")
    with zipfile.ZipFile(tmp_path / "lzma.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.png", b"12345")
    with pytest.raises(OSError, match="zip method 14, which is not supported"):
        ImageFiles(tmp_path / "lzma.zip").read("x.png")


def with_names(path: Path, *names: str) -> Path:
    """An archive of members with exactly these names."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(zipfile.ZipInfo(name), b"1")
    else:
        with tarfile.open(path, "w") as archive:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = 1
                archive.addfile(info, io.BytesIO(b"1"))
    return path


@pytest.mark.parametrize("kind", ["x.zip", "x.tar"])
@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/x.png", "a\\..\\..\\x.png"])
def test_paths_that_lead_out_of_an_archive_are_rejected(tmp_path, kind, name):
    with pytest.raises(InputError, match=r"x\.(zip|tar) names '.*x\.png'; an image's path in an archive is relative"):
        ImageFiles(with_names(tmp_path / kind, "a.png", name))
    inside = ["a..b/x.png", "a/..x.png"]
    assert list(ImageFiles(with_names(tmp_path / kind, *inside, "../notes.txt"))) == inside


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# --- lists --------------------------------------------------------------------


def write_list(path: Path, columns: dict[str, list]) -> Path:
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pytest.importorskip("pyarrow").table(columns), path)
    else:
        rows = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        path.write_text("\n".join(rows) + "\n", encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_list_names_its_images_and_their_classes(folder, suffix):
    from tinyvit.backbones.distill import find_true_classes

    files = ["b/2.png", "a/1.jpg", "a/x.gif"]
    path = write_list(folder / f"list{suffix}", {"class_index": [7, 3, 5], "file": files})
    images = ImageFiles(path)
    assert list(images) == sorted(files)
    assert images.read("b/2.png") == (folder / "b/2.png").read_bytes() == images.read_at(2)
    assert find_true_classes(images, None, 8).by_image == {0: 3, 1: 5, 2: 7}
    path.unlink()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a/1.jpg"]}, "needs the column file"),
        ({"file": ["a/1.jpg", "a/1.jpg"]}, "names 'a/1.jpg' twice"),
        ({"file": ["../x.jpg"]}, "names '../x.jpg'; a file is a path below"),
        ({"file": ["/x.jpg"]}, "names '/x.jpg'"),
        ({"file": []}, "lists no image"),
    ],
)
def test_lists_that_cannot_be_used(folder, tmp_path, columns, message):
    with pytest.raises(InputError, match=message):
        ImageFiles(write_list(tmp_path / "list.csv", columns))


def test_a_parquet_list_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    with pytest.raises(InputError, match="pyarrow"):
        ImageFiles(_written(tmp_path / "x.parquet", b"PAR1"))


# --- keys ---------------------------------------------------------------------


def test_a_key_list_is_a_sequence_of_text():
    names = ["", "a", "z" * 300, "ä/ö"]
    keys = KeyList.of([name.encode() for name in names])
    assert keys == names
    assert keys != names[:3]
    assert (keys[-1], keys[1:3], len(keys)) == (names[-1], names[1:3], 4)
    assert [keys.find(name) for name in names] == [0, 1, 2, 3]
    with pytest.raises(KeyError):
        keys.find("b")
    with pytest.raises(IndexError):
        keys[4]


def test_many_archives_keep_few_files_open(tmp_path, monkeypatch):
    monkeypatch.setattr(archives_module, "_OPEN_ARCHIVES", 2)
    for number in range(5):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
            archive.writestr("x.png", str(number))
    images = ImageFiles(tmp_path)
    assert [images.read_at(at) for at in (0, 4, 2, 1, 3, 0)] == [b"0", b"4", b"2", b"1", b"3", b"0"]
    assert images._reader is not None
    assert len(images._reader._handles) == 2
    assert isinstance(images.members, Members)


def link(archive: tarfile.TarFile | zipfile.ZipFile, name: str, target: str, hard: bool = False) -> None:
    if isinstance(archive, zipfile.ZipFile):
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, target)
        return
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = (tarfile.LNKTYPE if hard else tarfile.SYMTYPE), target
    archive.addfile(entry)


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_links_in_archives_are_followed_as_in_folders(folder, tmp_path, suffix):
    """To a file, to a folder, through another link; before and after what they lead to."""
    packed = tmp_path / f"x{suffix}"
    with tarfile.open(packed, "w") if suffix == ".tar" else zipfile.ZipFile(packed, "w") as archive:
        link(archive, "c/before.jpg", "../a/1.jpg")
        link(archive, "cats", "a")
        add = archive.add if suffix == ".tar" else archive.write
        for name in NAMES:
            add(folder / name, name)
        link(archive, "twice", "./cats/.")
        link(archive, "through.jpg", "twice/1.jpg")
        link(archive, "nowhere.png", "a/9.png")
        link(archive, "out.png", "../../etc/x.png")
        link(archive, "loop", "loop")
        link(archive, "loop.png", "other.png")
        link(archive, "other.png", "loop.png")
        if suffix == ".tar":
            link(archive, "hard.png", "b/2.png", hard=True)
            link(archive, "lost.png", "b/3.png", hard=True)
    images, loose = ImageFiles(packed), ImageFiles(folder)
    lost = {"nowhere.png", "out.png", "loop.png", "other.png"} | ({"lost.png"} if suffix == ".tar" else set())
    linked = {"c/before.jpg": "a/1.jpg", "through.jpg": "a/1.jpg"}
    linked |= {f"{name}/{file}": f"a/{file}" for name in ("cats", "twice") for file in ("1.jpg", "ü 3.PNG")}
    linked |= {"hard.png": "b/2.png"} if suffix == ".tar" else {}
    assert set(images) == {*NAMES, *linked, *lost}
    for key, target in linked.items():
        assert images.read(key) == loose.read(target)
    for key in lost:
        with pytest.raises(OSError, match="a link to something that the archive does not hold"):
            images.read(key)
    earlier = set(ImageFiles(packed, earlier=True))  # as stores of before have it
    assert earlier >= set(NAMES)
    assert not earlier & {"cats/1.jpg", "twice/1.jpg"}


def test_impossible_places_are_damage(folder, tmp_path):
    packed = pack(folder, tmp_path / "x.tar")
    entry = tarfile.TarInfo("c.png")
    header = bytearray(entry.tobuf())
    header[124:136] = b"\xff" * 12  # the size, as a negative number to the base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    end = packed.read_bytes().rstrip(b"\0")
    packed.write_bytes(end + b"\0" * (-len(end) % 512) + header + b"\0" * 1024)
    with pytest.raises(InputError, match=r"x\.tar is damaged"):
        ImageFiles(packed)
