"""Saving a model in timm's layout, and pushing it to the Hugging Face hub.

A saved model is a folder with ``config.json`` and ``model.safetensors``. ``create_model`` reads it
as ``local-dir:FOLDER`` or ``hf-hub:REPOSITORY``; so does timm, where timm can build the model.
"""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tinyvit.core.errors import InputError
from tinyvit.core.files import replacing
from tinyvit.core.images.preprocess import Preprocess

from . import tiny_vit
from .deployed import Deployed
from .features import FeatureBackbone
from .registry import PRETRAINED_TAGS, build_saved
from .sources import CONFIG_NAME, OURS_ALONE, WEIGHTS_NAME, parse_config
from .tiny_vit import TinyViT

_SHAPE_OF_TINY_VIT = (
    "in_chans",
    "embed_dims",
    "depths",
    "num_heads",
    "window_sizes",
    "mlp_ratio",
    "mbconv_expand_ratio",
    "local_conv_size",
    "global_pool",
    "output_stride",
    "pad_tokens",
)


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    classes: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
) -> Path:
    """Save a model as ``config.json`` and ``model.safetensors``, in timm's layout.

    ``create_model("local-dir:FOLDER")`` builds it again, and
    ``timm.create_model("local-dir:FOLDER", pretrained=True)`` gives the same outputs. A model that
    timm cannot build, such as a :class:`FeatureBackbone`, is marked, and timm refuses it. Rates of
    dropout and stochastic depth are not saved. Both files replace older ones only when both are
    written.

    Args:
        model: A model of :func:`tinyvit.backbones.create_model`, with or without ``features_only``.
        folder: Where to write; it is made if it does not exist.
        classes: The names of the classes, in the order of the logits.
        preprocess: The evaluation transform, if it is not the one in ``model.pretrained_cfg``.

    Returns:
        The folder.

    Raises:
        InputError: The model cannot be saved or was changed after it was built, the names do not
            fit its classes, or ``folder`` is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder to save the model into")
    config = saved_config(model, classes=classes, preprocess=preprocess)
    content = _weights(model)
    folder.mkdir(parents=True, exist_ok=True)
    # Both are written before the first one is renamed.
    with replacing(folder / CONFIG_NAME) as new_config, replacing(folder / WEIGHTS_NAME) as new_weights:
        new_config.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        new_weights.write_bytes(content)
    return folder


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    classes: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Add model",
    create_pr: bool = False,
    license_id: str | None = None,
) -> Any:
    """Save a model into a repository of the Hugging Face hub, which is made if it does not exist.

    A ``README.md`` with a model card is added where the repository has none.

    Args:
        model: As :func:`save_pretrained` takes it.
        repo_id: ``OWNER/NAME``, or ``NAME`` for a repository of the token's owner.
        classes: The names of the classes, in the order of the logits.
        preprocess: The evaluation transform, if it is not the one in ``model.pretrained_cfg``.
        private: Whether a new repository is private.
        token: An access token; by default the one of ``hf auth login``.
        revision: An existing branch to push to; by default ``main``.
        commit_message: The message of the commit.
        create_pr: Whether to open a pull request instead of committing to the branch.
        license_id: The licence of the weights for the model card, such as ``apache-2.0``.

    Returns:
        The hub's ``CommitInfo``; its ``commit_url`` and ``pr_url`` say where the model is.

    Raises:
        InputError: As for :func:`save_pretrained`, or the hub rejects the request or is not
            reached.
    """
    import huggingface_hub

    with tempfile.TemporaryDirectory() as scratch:
        folder = save_pretrained(model, scratch, classes=classes, preprocess=preprocess)
        config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        try:
            api = huggingface_hub.HfApi(token=token, library_name="tinyvit")
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if not api.file_exists(repo_id, "README.md", revision=revision):
                (folder / "README.md").write_text(model_card(config, repo_id, license_id), encoding="utf-8")
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message,
            )
        except Exception as error:  # the hub's client passes on the errors of its HTTP library, which changes
            reason = next(iter(str(error).strip().splitlines()), "no message")
            raise InputError(
                f"cannot push to {repo_id} ({type(error).__name__}: {reason}); check the name, the network and the "
                f"access token (`hf auth login`, or token=TOKEN)"
            ) from error


# --- the configuration -------------------------------------------------------


def saved_config(
    model: nn.Module, *, classes: Sequence[str] | None = None, preprocess: Preprocess | None = None
) -> dict[str, Any]:
    """Return the content of ``config.json``: the keys of timm, and ``tinyvit`` for what is ours.

    Raises:
        InputError: As for :func:`save_pretrained`.
    """
    name, inner = _check_model(model)
    is_features = isinstance(model, FeatureBackbone)
    config: dict[str, Any] = {
        "architecture": name,
        "num_classes": 0 if is_features else inner.num_classes,
        "num_features": inner.num_features,
    }
    if not is_features:
        config["global_pool"] = getattr(inner, "global_pool", "avg")
    if classes is not None:
        config["label_names"] = _check_classes(classes, config["num_classes"])
    arguments = _arguments_of(name, inner)
    if arguments:
        config["model_args"] = arguments
    config["pretrained_cfg"] = _settings(inner, config["num_classes"], preprocess)
    if isinstance(model, FeatureBackbone):
        config["tinyvit"] = {"features_only": True, "out_indices": list(model.out_indices)}

    with torch.device("meta"):
        again = build_saved(parse_config(json.loads(json.dumps(config))))
    if _shapes(again) != _shapes(model):
        raise InputError(
            f"this {type(inner).__name__} was changed after {name} was built, and config.json cannot say how; save its "
            f"state_dict() instead"
        )
    if is_features or not _timm_builds_it(name, config["num_classes"], arguments, _shapes(model)):
        config["architecture"] = OURS_ALONE + name
    return config


def _check_model(model: nn.Module) -> tuple[str, Any]:
    """Return the name of a model and the network itself."""
    if isinstance(model, Deployed):
        raise InputError("a deployed form cannot be saved; save the module that it was made from")
    inner: Any = model.model if isinstance(model, FeatureBackbone) else model
    name = getattr(inner, "pretrained_cfg", {}).get("architecture")
    ours = isinstance(inner, TinyViT) or (isinstance(inner, VisionTransformer) and hasattr(inner, "build_args"))
    if not ours or name not in PRETRAINED_TAGS:
        raise InputError(
            f"a {type(inner).__name__} cannot be saved here; give a model of tinyvit.backbones.create_model, without "
            f"wrappers around it"
        )
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise InputError(f"{name} is on the meta device and has no weights; build it on another device")
    return name, inner


def _check_classes(classes: Sequence[str], num_classes: int) -> list[str]:
    names = [classes] if isinstance(classes, str) else list(classes)
    if len(names) != num_classes:
        raise InputError(f"classes has {len(names)} names, but the model has {num_classes} classes; give one per class")
    if not all(isinstance(name, str) for name in names):
        raise InputError("classes holds a name that is not text; give strings")
    return names


def _arguments_of(name: str, inner: Any) -> dict[str, Any]:
    """Return what differs from the variant, as arguments that our class and timm's both take."""
    if isinstance(inner, TinyViT):
        parameters = inspect.signature(TinyViT).parameters
        usual = {key: parameters[key].default for key in _SHAPE_OF_TINY_VIT} | tiny_vit.VARIANTS[name]
        return {key: getattr(inner, key) for key in _SHAPE_OF_TINY_VIT if getattr(inner, key) != usual[key]}
    arguments = {key: value for key, value in inner.build_args.items() if not key.endswith(("drop_rate", "path_rate"))}
    for key, value in arguments.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"argument {key}={value!r:.80} cannot be written to {CONFIG_NAME}; build the model with a name, such "
                f"as act_layer='gelu'"
            ) from error
    size = list(inner.patch_embed.img_size)
    return {"dynamic_img_size": True, "dynamic_img_pad": True, **arguments, "img_size": size}


def _settings(inner: Any, num_classes: int, preprocess: Preprocess | None) -> dict[str, Any]:
    """Return timm's ``pretrained_cfg``: how to feed the model, and names for timm's tools."""
    known = {
        key: value
        for key, value in inner.pretrained_cfg.items()
        if value is not None and key not in ("architecture", "hf_hub_id", "label_names")
    }
    if preprocess is not None:
        document = preprocess.to_dict()
        known |= {"input_size": [3, *document.pop("size")], **document}
    channels = inner.get_submodule(known["first_conv"]).in_channels
    return known | {"num_classes": num_classes, "input_size": [channels, *known["input_size"][1:]]}


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    inner = model.model if isinstance(model, FeatureBackbone) else model
    return {name: value.shape for name, value in inner.state_dict().items()}


def _timm_builds_it(name: str, num_classes: int, arguments: dict[str, Any], shapes: Mapping[str, torch.Size]) -> bool:
    import timm

    try:
        with torch.device("meta"):
            theirs = timm.create_model(name, num_classes=num_classes, **arguments)
    except (AssertionError, RuntimeError, TypeError, ValueError):  # an argument that this timm does not have
        return False
    return _shapes(theirs) == shapes


def _weights(model: nn.Module) -> bytes:
    """Return the content of ``model.safetensors``, in timm's names."""
    from safetensors.torch import save

    inner = model.model if isinstance(model, FeatureBackbone) else model
    state: dict[str, Tensor] = {name: value.detach().cpu().contiguous() for name, value in inner.state_dict().items()}
    return save(state, {"format": "pt"})


# --- the model card ----------------------------------------------------------

_CARD = """\
---
tags:
- {task}
- tinyvit
pipeline_tag: {task}
library_name: {library}
{licence}---

# Model card for {title}

- Architecture: {architecture}
- Classes: {num_classes}
- Input: {input}

## Use

```python
from tinyvit.backbones import create_model

model = create_model("hf-hub:{repo_id}").eval()
```
"""

_CARD_OF_TIMM = """
```python
import timm

model = timm.create_model("hf-hub:{repo_id}", pretrained=True).eval()
```
"""


def model_card(config: Mapping[str, Any], repo_id: str, license_id: str | None = None) -> str:
    """Return the text of a ``README.md`` for the hub: metadata, facts, and how to load the model.

    Args:
        config: As :func:`saved_config` makes it.
        repo_id: ``OWNER/NAME``.
        license_id: The licence of the weights.
    """
    architecture = config["architecture"]
    is_timm = not architecture.startswith(OURS_ALONE)
    settings = config["pretrained_cfg"]
    channels, height, width = settings["input_size"]
    text = _CARD + _CARD_OF_TIMM if is_timm else _CARD
    return text.format(
        task="image-classification" if config["num_classes"] else "image-feature-extraction",
        library="timm" if is_timm else "tinyvit",
        licence=f"license: {license_id}\n" if license_id else "",
        title=repo_id.split("/")[-1],
        architecture=architecture.removeprefix(OURS_ALONE),
        num_classes=config["num_classes"] or "none, the outputs are features",
        input=f"{height} x {width} pixels, {channels} channels, mean {settings['mean']}, std {settings['std']}",
        repo_id=repo_id,
    )
