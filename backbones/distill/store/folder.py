"""The folder of a store: which teachers' labels it holds, and its list of images."""

from __future__ import annotations

from pathlib import Path

from tinyvit.core.errors import InputError
from tinyvit.core.images.decode import RULE

from .header import DECODING_KEY, HEADER_NAME, LABELS_FORMAT, LABELS_NAME, STORE_FORMAT, read_header
from .manifest import MANIFEST_NAME, Manifest

TEACHERS = "teachers"
#: Folder of what imported labels keep of their source.
ORIGIN = "origin"


def labels_folder(path: Path, name: str) -> Path:
    """Return the folder of the labels called ``name``."""
    return path / TEACHERS / name


def refuse_lost_header(path: Path) -> None:
    """Reject a folder that holds labels and no header: made anew, they would be lost.

    Raises:
        InputError: It is such a folder.
    """
    if teacher_names(path):
        raise InputError(f"{path} lacks its {HEADER_NAME}; take it from a copy of the store or a part of it")


def open_manifest(path: Path) -> Manifest:
    """Return the manifest of a store, read whole and compared with the header.

    Raises:
        InputError: Header or manifest are missing or damaged.
    """
    header = read_header(path / HEADER_NAME, STORE_FORMAT, "the header of a soft-label store")
    manifest = Manifest.open(path / MANIFEST_NAME)
    if manifest.sha256 != header.get("manifest", {}).get("sha256"):
        raise InputError(
            f"{path / MANIFEST_NAME} is damaged: its hash is not the one in {HEADER_NAME}; take it from a copy, or "
            "make a new store"
        )
    return manifest


def decoding_of(path: Path, new: int = RULE) -> dict[str, int]:
    """Return the decoding rule of labels that are added to a store, as its header has it.

    A store that was begun keeps its own.

    Args:
        path: The store's folder.
        new: The number of the rule for a new store.

    Raises:
        InputError: The header is damaged.
    """
    if not (path / HEADER_NAME).is_file():
        return {DECODING_KEY: new} if new != 1 else {}
    header = read_header(path / HEADER_NAME, STORE_FORMAT, "the header of a soft-label store")
    augmentation = header.get("augmentation") or {}
    return {key: value for key, value in augmentation.items() if key == DECODING_KEY}


def aspect_of(path: Path, size: tuple[int, int]) -> float:
    """Return width / height of the views of a store: its own, or for a new one the teacher's.

    Args:
        path: The store's folder.
        size: Height and width of the teacher's input.

    Raises:
        InputError: The header is damaged.
    """
    if not (path / HEADER_NAME).is_file():
        return size[1] / size[0]
    header = read_header(path / HEADER_NAME, STORE_FORMAT, "the header of a soft-label store")
    return header.get("augmentation", {}).get("aspect", 1.0)


def teacher_names(path: str | Path) -> list[str]:
    """Return the names of the labels in a store, sorted; empty when there is no store."""
    return sorted(labels.parent.name for labels in Path(path).glob(f"{TEACHERS}/*/{LABELS_NAME}"))


def choose_labels(path: Path, teacher: str | None) -> str:
    """Return the name of the labels' folder that ``teacher`` stands for.

    Args:
        path: The store's folder.
        teacher: The name of a labels' folder, or a teacher's own name. ``None`` means the only
            labels.

    Raises:
        InputError: There are no such labels, or several.
    """
    names = teacher_names(path)
    if teacher in names:
        return teacher
    if not names:
        read_header(path / HEADER_NAME, STORE_FORMAT, "the header of a soft-label store")
        raise InputError(f"{path} holds no labels yet; make some: tinyvit label")
    if teacher is None:
        if len(names) > 1:
            raise InputError(
                f"{path} holds the labels of several teachers: name one of {', '.join(names)} (a recipe's key "
                "teacher, or --labels of `tinyvit labels`)"
            )
        return names[0]
    made_by = {name: _teacher_name(labels_folder(path, name) / LABELS_NAME) for name in names}
    found = [name for name in names if made_by[name] == teacher]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{path} holds several labels by {teacher!r}; name one of {', '.join(found)}")
    held = ", ".join(f"{name} (by {maker})" for name, maker in made_by.items())
    raise InputError(f"{path} holds no labels {teacher!r}; name one of {held}")


def _teacher_name(labels: Path) -> str:
    teacher = read_header(labels, LABELS_FORMAT, "the header of a teacher's labels").get("teacher")
    return str(teacher.get("name")) if isinstance(teacher, dict) else ""
