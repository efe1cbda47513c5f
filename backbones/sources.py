"""Models named by the place of their files: ``local-dir:FOLDER`` and ``hf-hub:REPOSITORY``.

Both hold ``config.json`` in timm's layout and the weights beside it. :mod:`tinyvit.backbones.hub`
writes them, and so does timm.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyvit.core.errors import InputError, check_file

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
#: Before the architecture's name where timm cannot build it; timm knows no such model and refuses.
OURS_ALONE = "tinyvit:"

_WEIGHTS_NAMES = (WEIGHTS_NAME, "pytorch_model.bin")
# The settings of evaluation that a configuration may bring, as in timm's ``pretrained_cfg``.
_SETTINGS = ("tag", "input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std", "label_names")


@dataclass(frozen=True)
class SavedModel:
    """The content of a ``config.json``.

    Args:
        name: The model's name in ``create_model``; not checked here.
        arguments: Arguments of ``create_model`` that build it.
        settings: Entries of its ``pretrained_cfg``.
    """

    name: str
    arguments: dict[str, Any]
    settings: dict[str, Any]


def split_source(name: str) -> tuple[str, str] | None:
    """Return ``(kind, place)`` of a name such as ``local-dir:FOLDER``, and ``None`` for others.

    Raises:
        InputError: Nothing follows the colon.
    """
    kind, colon, place = name.partition(":")
    kind = kind.lower().replace("_", "-")
    if not colon or kind not in ("local-dir", "hf-hub"):
        return None
    if not place:
        wanted = "a folder, local-dir:FOLDER" if kind == "local-dir" else "a repository, hf-hub:OWNER/NAME"
        raise InputError(f"{name} names nothing after the colon; give {wanted}")
    return kind, place


def read_source(kind: str, place: str) -> tuple[SavedModel, Path]:
    """Read the configuration of a saved model and find its weights.

    Args:
        kind: ``local-dir`` or ``hf-hub``, see :func:`split_source`.
        place: A folder; or a repository ``OWNER/NAME``, optionally with ``@REVISION``.

    Returns:
        The configuration, and the path of the weights file.

    Raises:
        InputError: A file is missing, damaged or cannot be fetched.
    """
    if kind == "local-dir":
        folder = Path(place)
        if not folder.is_dir():
            raise InputError(f"folder {folder} of local-dir:{place} does not exist; give the folder of a saved model")
        config = check_file(folder / CONFIG_NAME, "configuration", "a file")
        weights = next((folder / name for name in _WEIGHTS_NAMES if (folder / name).is_file()), None)
        if weights is None:
            raise InputError(f"folder {folder} has no {' or '.join(_WEIGHTS_NAMES)}; save the model into it again")
        return _read_config(config), weights
    return _read_config(_fetch(place, CONFIG_NAME)), _fetch(place, WEIGHTS_NAME)


def _fetch(place: str, filename: str) -> Path:
    repository, _, revision = place.partition("@")
    try:
        return fetch_file(repository, filename, revision or None)
    except Exception as error:  # see fetch_file
        if is_absent(error):
            raise InputError(
                f"the hub has no {filename} for hf-hub:{place} ({type(error).__name__}); check the name, or log in if "
                f"the repository is private"
            ) from error
        remedy = f"pass the folder with {CONFIG_NAME} and {WEIGHTS_NAME} as local-dir:FOLDER"
        raise cannot_fetch(error, repository, filename, remedy, revision or "main") from error


def _read_config(path: Path) -> SavedModel:
    try:
        return parse_config(json.loads(path.read_text(encoding="utf-8")))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except ValueError as error:  # of json and of the text's encoding
        raise InputError(f"{path} is damaged or not a JSON file; save the model again") from error


def parse_config(config: Any) -> SavedModel:
    """Return what a configuration in timm's layout says.

    Raises:
        InputError: An entry is missing or of another type.
    """
    if not isinstance(config, dict):
        raise InputError(f"holds a {type(config).__name__}; expected an object with the key architecture")
    settings = _entry(config, "pretrained_cfg", dict, {})
    own = _entry(config, "tinyvit", dict, {})
    arguments = dict(_entry(config, "model_args", dict, {}))
    size = settings.get("input_size")
    if size is not None and not (isinstance(size, list) and len(size) == 3):
        raise InputError(f"input_size is {size!r}; expected [channels, height, width]")
    # The side that a model is built for: DeiT has an argument for it, TinyViT only its input.
    side = arguments.pop("img_size", None) or (size[1:] if size and size[1] == size[2] else None)
    arguments["img_size"] = side[0] if isinstance(side, list) and len(set(side)) == 1 else side
    arguments["num_classes"] = _entry(config, "num_classes", int, settings.get("num_classes"))
    if own.get("features_only"):
        arguments |= {"features_only": True, "out_indices": own.get("out_indices")}
    names = {"label_names": config["label_names"]} if "label_names" in config else {}
    found = {key: value for key, value in {**settings, **names}.items() if key in _SETTINGS}
    name = _entry(config, "architecture", str, settings.get("architecture"))
    if name is None:
        raise InputError("has no architecture; add the key with the name of a model")
    return SavedModel(name.removeprefix(OURS_ALONE), arguments, _with_tuples(found))


def _entry(config: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise InputError(f"{key} is {value!r:.80}; expected a JSON {_JSON_NAMES[kind]}")
    return value


_JSON_NAMES = {dict: "object", int: "whole number", str: "string"}


def _with_tuples(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with tuples in the place of lists, as timm keeps them."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}


# --- the hub -----------------------------------------------------------------

# By name, as the HTTP library differs between versions of the hub's client.
_ABSENT = {"HFValidationError", "RemoteEntryNotFoundError", "RepositoryNotFoundError", "RevisionNotFoundError"}
_UNREACHABLE = {"ConnectionError", "ConnectError", "ConnectTimeout", "ProxyError"}


def fetch_file(repository: str, filename: str, revision: str | None = None) -> Path:
    """Return a file of a Hugging Face repository, from the local cache or downloaded into it.

    Args:
        repository: ``OWNER/NAME``.
        filename: Its path inside the repository.
        revision: A branch, tag or commit; by default ``main``.

    Raises:
        Exception: One of the hub's client or of its HTTP library, which changes. The functions
            :func:`is_absent` and :func:`cannot_fetch` read it.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(repository, filename, revision=revision), str):
        # Asked once: without a network the download would try again and again, and log each time.
        # Other errors here are left to the download, which knows what is worth another try.
        try:
            get_hf_file_metadata(hf_hub_url(repository, filename, revision=revision))
        except Exception as error:
            if _kinds(error) & _UNREACHABLE:
                raise
    return Path(hf_hub_download(repository, filename, revision=revision))


def is_absent(error: Exception) -> bool:
    """Return whether the hub answered that it has no such file, revision or repository."""
    return bool(_kinds(error) & _ABSENT)


def cannot_fetch(error: Exception, repository: str, filename: str, remedy: str, revision: str = "main") -> InputError:
    """Return the error for a file of the hub that must come here by another way.

    Args:
        error: The error of :func:`fetch_file`.
        repository: ``OWNER/NAME``.
        filename: The file's path inside the repository.
        remedy: The use of the file that another machine has fetched, as an instruction.
        revision: A branch, tag or commit.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    return InputError(
        f"cannot fetch {filename} of {repository} ({type(error).__name__}): download "
        f"https://huggingface.co/{repository}/resolve/{revision}/{filename} on a machine with a network and {remedy}, "
        f"or copy that machine's folder models--{repository.replace('/', '--')} into {HF_HUB_CACHE}"
    )


def _kinds(error: Exception) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}
