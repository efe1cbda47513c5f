"""Padding that nothing sees: with ``pad_tokens="masked"`` a batch does not change an image's
features, in the module, in its deployed form and as ONNX.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tinyvit.backbones import InputError, any_size, create_model, deploy
from tinyvit.backbones.deployed.attention import FusedAttention, NativeAttention
from tinyvit.backbones.deployed.kernels import find_kernels
from tinyvit.backbones.features import FeatureBackbone
from tinyvit.backbones.tiny_vit import TinyViT, bias_indices

#: Heads of 32 channels, which the compiled kernels take.
SMALL: dict[str, Any] = {
    "embed_dims": (16, 32, 64, 96),
    "depths": (1, 2, 1, 1),
    "num_heads": (1, 1, 2, 3),
    "window_sizes": (7, 7, 14, 7),
}
#: Height and width of the images of a batch. Neither windows nor strides divide them.
SIZES = [(97, 131), (160, 64), (33, 200)]
BATCH = (3, 3, 224, 256)


def features(pad_tokens: str = "masked", **options: Any) -> FeatureBackbone:
    """A TinyViT with values everywhere: zeros would hide what comes from the padding."""
    torch.manual_seed(0)
    model = TinyViT(num_classes=0, pad_tokens=pad_tokens, **SMALL | options)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else tensor + 0.2 * noise)
    return FeatureBackbone(model, (0, 1, 2, 3)).eval()


def images_and_batch(fill: float = 0.0) -> tuple[list[Tensor], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(1, 3, *size, generator=generator) for size in SIZES]
    batch = torch.full(BATCH, fill)
    for row, image in zip(batch, images, strict=True):
        row[:, : image.shape[2], : image.shape[3]] = image[0]
    return images, batch, torch.tensor(SIZES)


def distance(alone: Any, together: Any) -> float:
    """The largest difference between each image's maps alone and in the batch, as a share of the
    map's largest value.
    """
    return max(
        float((one[0] - every[row, :, : one.shape[2], : one.shape[3]]).abs().max() / one.abs().max())
        for row, maps in enumerate(alone)
        for one, every in zip(maps, together, strict=True)
    )


@pytest.mark.parametrize("fill", [0.0, 3.0])
@torch.no_grad()
def test_an_image_has_the_same_features_in_every_batch(fill: float) -> None:
    images, batch, sizes = images_and_batch(fill)
    masked, zero = features(), features("zero")
    together = masked(batch, sizes)
    assert distance([masked(image) for image in images], together) < 1e-5
    assert distance([zero(image) for image in images], zero(batch)) > 0.1
    for maps, stride in zip(together, (4, 8, 16, 32), strict=True):
        for row, (height, width) in zip(maps, SIZES, strict=True):
            assert not row[:, -(-height // stride) :].any()
            assert not row[:, :, -(-width // stride) :].any()


@torch.no_grad()
def test_masks_change_nothing_where_no_token_is_padded() -> None:
    image = torch.randn(2, 3, 224, 224)
    for a, b in zip(features()(image), features("zero")(image), strict=True):
        assert torch.equal(a, b)
    whole = torch.tensor([[224, 224]] * 2)
    for a, b in zip(features()(image, whole), features("zero")(image), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    odd = image[..., :200, :100]
    assert not torch.allclose(features()(odd)[3], features("zero")(odd)[3], atol=1e-2)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_images_alone(checkpointing: bool) -> None:
    """With BatchNorm's statistics fixed; in double precision."""
    images, batch, sizes = images_and_batch()
    model = features().double()
    model.model.set_grad_checkpointing(checkpointing)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    grads = []
    for calls in ([(image.double(), None) for image in images], [(batch.double(), sizes)]):
        model.zero_grad()
        sum(maps.square().sum() for call in calls for maps in model(*call)).backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    for alone, together in zip(*grads, strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-8, atol=1e-8 * float(alone.abs().max()))


@pytest.mark.parametrize(
    ("native", "dtype", "tolerance"),
    [(True, torch.float32, 1e-5), (False, torch.float32, 1e-5), (False, torch.bfloat16, 2e-2)],
)
@torch.no_grad()
def test_deployed_form(native: bool, dtype: torch.dtype, tolerance: float) -> None:
    images, batch, sizes = images_and_batch(3.0)
    model = features()
    fast = deploy(model, dtype, native=native)
    if native:
        assert find_kernels("cpu", dtype).attention == (fast.report.steps["attention in a compiled kernel"] == "in")
    together = fast(batch, sizes)
    assert distance([fast(image) for image in images], together) < tolerance
    assert distance([model(image) for image in images], together) < (1e-5 if dtype == torch.float32 else 0.1)
    plain = deploy(features("zero"), dtype, native=native)
    assert distance([plain(image) for image in images], plain(batch)) > 0.1


def test_kernels_hide_tokens() -> None:
    """The compiled kernel and PyTorch's beside double precision, also for a window of padding
    alone.
    """
    if not (found := find_kernels("cpu", torch.float32)).attention:
        pytest.skip(found.missing["attention"])
    for side in (5, 7, 14):
        torch.manual_seed(side)
        bias = torch.randn(2, side * side)[:, bias_indices(side)]
        qkv = torch.randn(4, side * side, 3 * 2 * 32)
        kept = torch.rand(4, side * side, 1) < torch.tensor([1.0, 0.5, 0.1, 0.0])[:, None, None]
        kept[:3, side] = True
        q, k, v = qkv.double().view(4, side * side, 3, 2, 32).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(2, 3) * 32**-0.5 + bias.double()).masked_fill(
            ~kept.transpose(1, 2)[:, None], -torch.inf
        )
        wanted = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)[:3]
        for kernel in (NativeAttention(bias, 2, 32), FusedAttention(bias, 2, 32)):
            got = kernel(qkv, kept)
            torch.testing.assert_close(got[:3].double(), wanted, rtol=0, atol=5e-6)
            assert got.isfinite().all()
    with pytest.raises(ValueError, match=r"4 windows of 196 tokens do not take torch\.float32"):
        NativeAttention(bias, 2, 32)(qkv, kept.float())


@pytest.mark.slow
@torch.no_grad()
def test_compiled_graph_takes_every_size() -> None:
    _, batch, sizes = images_and_batch()
    model = features(depths=(1, 1, 1, 1))
    torch.compiler.reset()
    compiled = torch.compile(model, dynamic=True, fullgraph=True, backend="eager")
    with any_size():
        for rows in (slice(None), slice(1, None)):
            for a, b in zip(compiled(batch[rows], sizes[rows]), model(batch[rows], sizes[rows]), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_onnx_with_sizes(tmp_path) -> None:
    """The graph with the sizes as second input, as a user exports it."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    images, batch, sizes = images_and_batch()
    model = features(depths=(1, 1, 1, 1))
    free: Any = torch.export.Dim.DYNAMIC
    shapes = ({0: free, 2: free, 3: free}, {0: free})
    program = torch.export.export(model, (batch, sizes), dynamic_shapes=shapes, strict=False)
    names = ["image", "valid_sizes"]
    torch.onnx.export(program, (), str(tmp_path / "a.onnx"), dynamo=True, opset_version=20, input_names=names)
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])

    def run(image: Tensor, size: Tensor) -> list[Tensor]:
        values = session.run(None, {"image": image.numpy(), "valid_sizes": size.numpy()})
        return [torch.from_numpy(value) for value in values]

    alone = [run(image.repeat(2, 1, 1, 1), torch.tensor([image.shape[2:]] * 2)) for image in images]
    together = run(batch, sizes)
    assert distance(alone, together) < 1e-5
    assert distance([model(image) for image in images], together) < 1e-5


@pytest.mark.slow
def test_export_keeps_the_masks(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from tinyvit.export import OnnxModel, export_onnx

    masked, zero = (features(mode, depths=(1, 1, 1, 1)) for mode in ("masked", "zero"))
    report = export_onnx(masked, tmp_path / "a.onnx", size=224)  # compares with the module at odd sizes
    assert report.check is not None
    image = torch.randn(1, 3, 97, 131)
    found = [torch.from_numpy(value) for value in OnnxModel(tmp_path / "a.onnx")(image.numpy())]
    with torch.no_grad():
        assert distance([masked(image)], found) < 1e-4
        assert distance([zero(image)], found) > 1e-2


def test_by_name_and_mistakes() -> None:
    model = create_model("tiny_vit_5m_224", pad_tokens="masked")
    assert model.pad_tokens == "masked"
    with pytest.raises(InputError, match="pad_tokens is 'none'; use 'zero' or 'masked'"):
        create_model("tiny_vit_5m_224", pad_tokens="none")
    image, sizes = torch.zeros(2, 3, 64, 64), torch.tensor([[64, 64], [32, 64]])
    for wrong in (features("zero"), deploy(features("zero"), check=False)):
        with pytest.raises(ValueError, match="valid_sizes needs pad_tokens='masked'"):
            wrong(image, sizes)
    for wrong in (features(), deploy(features(), check=False)):
        with pytest.raises(ValueError, match=r"valid_sizes has shape \(1, 2\); give height and width of 2 images"):
            wrong(image, sizes[:1])
    with pytest.raises(InputError, match="valid_sizes are for TinyViT"):
        deploy(create_model("deit_tiny_patch16_224", features_only=True), check=False)(image, sizes)
