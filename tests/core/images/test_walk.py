"""One walk for all rooms: links, loops, special files, clutter, and what cannot be read."""

from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tinyvit.core.errors import InputError
from tinyvit.core.files import special_kind
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.images.walk import Skipped, walk


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two class folders, of which one is a link out of the root."""
    for name in ("elsewhere/cat/1.png", "elsewhere/cat/2.png", "root/dog/3.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    (tmp_path / "root" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    return tmp_path / "root"


def test_class_folders_that_are_links_are_followed(root: Path) -> None:
    images = ImageFiles(root)
    assert list(images) == ["cat/1.png", "cat/2.png", "dog/3.png"]
    assert images.class_names() == ["cat", "dog"]
    assert images.open("cat/1.png").size == (4, 4)
    assert images.skipped == Skipped()
    assert list(ImageFiles(root, earlier=True)) == ["dog/3.png"]  # as stores of before have it


def test_a_root_of_links_only_and_a_root_that_is_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "links" / name).symlink_to(root / name)
    (tmp_path / "link").symlink_to(root)
    assert list(ImageFiles(tmp_path / "links")) == list(ImageFiles(tmp_path / "link")) == list(ImageFiles(root))


def test_linked_files_are_files_and_dangling_ones_are_told_when_read(root: Path) -> None:
    (root / "dog" / "4.png").symlink_to(root / "dog" / "3.png")
    (root / "dog" / "5.png").symlink_to(root / "nowhere.png")
    images = ImageFiles(root)
    assert list(images)[2:] == ["dog/3.png", "dog/4.png", "dog/5.png"]
    assert images.read("dog/4.png") == images.read("dog/3.png")
    with pytest.raises(InputError, match=r"dog/5\.png"):
        images.open("dog/5.png")


def test_loops_of_links_are_left_out_and_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "dog" / "up").symlink_to(root)
    (root / "dog" / "here").symlink_to(root / "dog")
    (root / "self.png").symlink_to(root / "self.png")
    images = ImageFiles(root)
    assert list(images) == ["cat/1.png", "cat/2.png", "dog/3.png"]
    assert set(images.skipped.entries) == {"dog/here/", "dog/up/"}
    assert set(images.skipped.unreadable) == {"self.png"}
    said = capsys.readouterr().err
    assert f"{root / 'dog/up'} is skipped: a loop: the link leads to a folder around it" in said
    assert f"{root / 'self.png'} cannot be read: " in said


def test_a_maze_of_links_ends(tmp_path: Path) -> None:
    """Six folders with links to each other have 1,956 ways without a loop."""
    names = "abcdef"
    for name in names:
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "x.png")
    for one in names:
        for other in names:
            (tmp_path / one / f"to_{other}").symlink_to(tmp_path / other)
    skipped = Skipped()
    found = list(walk(tmp_path, skipped))
    assert {f"{name}/x.png" for name in names} <= set(found)
    assert len(found) <= 16 * len(names)
    assert any("more than 16 times" in why for why in skipped.entries.values())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_fifos_sockets_and_links_to_them_are_left_out_and_told(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    os.mkfifo(root / "dog" / "pipe.jpg")
    (root / "dog" / "linked.jpg").symlink_to(root / "dog" / "pipe.jpg")
    (root / "dog" / "null.png").symlink_to("/dev/null")
    monkeypatch.chdir(root)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.png")
        images = ImageFiles(root)
    assert list(images) == ["cat/1.png", "cat/2.png", "dog/3.png"]
    assert images.skipped.entries == {
        "s.png": "a socket",
        "dog/linked.jpg": "a FIFO",
        "dog/null.png": "a device",
        "dog/pipe.jpg": "a FIFO",
    }
    assert f"{root / 'dog/pipe.jpg'} is skipped: a FIFO" in capsys.readouterr().err
    assert special_kind(0) == "special file"
    # A list may name one: it is an error when it is read, and nothing waits.
    (root / "list.csv").write_text("file\ndog/pipe.jpg\n")
    with pytest.raises(InputError, match=r"pipe\.jpg is a FIFO, not a file"):
        ImageFiles(root / "list.csv").open("dog/pipe.jpg")


def test_folders_that_cannot_be_listed_are_told(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests may run as root, whom no permission stops."""
    scandir = os.scandir

    def refuse(path: Path):
        if Path(path).name == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    locked = "dog"
    images = ImageFiles(root)
    assert list(images) == ["cat/1.png", "cat/2.png"]
    assert images.skipped.unreadable == {"dog/": "Permission denied"}
    assert f"{root / 'dog'} cannot be read: Permission denied" in capsys.readouterr().err
    locked = "root"
    with pytest.raises(InputError, match=r"root cannot be listed: Permission denied; give a readable one"):
        ImageFiles(root)


def test_side_files_of_macos_count_nowhere(root: Path, tmp_path: Path) -> None:
    for name in ("__MACOSX/dog/._3.png", "dog/._3.png", "._dog", "dog/__MACOSX/x.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\0\5\26\7")
    wanted = ["cat/1.png", "cat/2.png", "dog/3.png"]
    assert list(ImageFiles(root)) == wanted
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive, tarfile.open(tmp_path / "all.tar", "w") as tar:
        for key in (*wanted, "__MACOSX/dog/._3.png", "dog/._3.png"):
            archive.write(root / key, key)
            tar.add(root / key, key)
    for name in ("all.zip", "all.tar"):
        images = ImageFiles(tmp_path / name)
        assert list(images) == wanted
        assert images.left_out == {}
        assert len(ImageFiles(tmp_path / name, earlier=True)) == 5
    # An archive per class, packed by macOS with its folder: no second folder is put around it.
    (tmp_path / "classes").mkdir()
    with zipfile.ZipFile(tmp_path / "classes" / "cat.zip", "w") as archive:
        for key in ("cat/1.png", "__MACOSX/cat/._1.png"):
            archive.writestr(key, b"x")
    assert list(ImageFiles(tmp_path / "classes")) == ["cat/1.png"]


def test_jfif_is_a_kind_of_jpeg(root: Path) -> None:
    Image.new("RGB", (4, 4)).save(root / "dog" / "9.jfif", "JPEG")
    assert "dog/9.jfif" in list(ImageFiles(root))
    assert "dog/9.jfif" not in list(ImageFiles(root, earlier=True))


def test_a_walk_that_stays_at_the_top(root: Path) -> None:
    Image.new("RGB", (4, 4)).save(root / "top.png")
    assert list(walk(root, Skipped(), deep=False)) == ["top.png"]
