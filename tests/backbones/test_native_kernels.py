"""The compiled kernels: right at every size, on every vector width, and absent with a reason."""

import copy
import ctypes
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tinyvit.backbones import create_model, deploy
from tinyvit.backbones.deployed import native, native_kernels
from tinyvit.backbones.deployed.attention import FusedAttention, NativeAttention
from tinyvit.backbones.deployed.native_kernels import NativeDepthwise, declare, depthwise_conv, window_attention
from tinyvit.backbones.tiny_vit import TinyViT, bias_indices

HAS_COMPILER = sys.platform == "linux" and shutil.which("c++") is not None
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")
on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of x86-64 compilers")


def make_case(windows: int, side: int, heads: int, width: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Projections ``(windows, N, 3 h d)`` and a bias ``(h, N, N)`` as TinyViT has it."""
    torch.manual_seed(side)
    table = torch.randn(heads, side * side)
    return torch.randn(windows, side * side, 3 * heads * width) * scale, table[:, bias_indices(side)]


def exact(qkv: torch.Tensor, bias: torch.Tensor, heads: int) -> torch.Tensor:
    """The same in double precision, written out."""
    windows, tokens, channels = qkv.shape
    q, k, v = qkv.double().view(windows, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias.double()
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(windows, tokens, channels // 3)


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("windows", "side", "heads", "width"),
    [(1, 1, 1, 32), (3, 2, 2, 32), (5, 7, 3, 32), (2, 12, 2, 32), (1, 14, 4, 32), (2, 17, 1, 32), (2, 7, 2, 64)],
)
def test_kernel_equals_double_precision(windows: int, side: int, heads: int, width: int, threads: int) -> None:
    """Windows smaller and larger than a vector, and such that no block of rows divides."""
    qkv, bias = make_case(windows, side, heads, width)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = NativeAttention(bias, heads, width)(qkv)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found.double(), exact(qkv, bias, heads), rtol=0, atol=5e-6)


@needs_compiler
def test_no_overflow_and_no_hidden_nan() -> None:
    """Scores in the thousands stay finite; a NaN reaches every token of its window and no other
    window.
    """
    qkv, bias = make_case(2, 7, 2, 32, scale=60.0)
    kernel = NativeAttention(bias, 2, 32)
    torch.testing.assert_close(kernel(qkv).double(), exact(qkv, bias, 2), rtol=0, atol=5e-2)
    qkv[0, 3] = torch.nan
    found = kernel(qkv)
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


@needs_compiler
@on_x86
@pytest.mark.parametrize(("flags", "vector"), [(["-mno-avx512f"], 8), (["-mno-avx"], 4)])
def test_other_vector_widths(flags: list[str], vector: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel that older processors run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library = declare(native.load_native(native_kernels.SOURCE, flags))
    if library.vector_width() != vector:
        pytest.skip(f"this processor has no vectors of {vector}")
    qkv, bias = make_case(2, 7, 2, 32)
    table = NativeAttention(bias, 2, 32).table
    found = window_attention(library, qkv, table, 2, 7)
    torch.testing.assert_close(found.double(), exact(qkv, bias, 2), rtol=0, atol=5e-6)
    image, conv = make_conv_case(16, 9, 11, 2)
    found = depthwise_conv(library, image, conv.weight[:, 0].permute(1, 2, 0).contiguous(), conv.bias, 2, True)
    torch.testing.assert_close(found, exact_conv(image, conv, True), rtol=0, atol=5e-6)


def make_conv_case(channels: int, height: int, width: int, stride: int) -> tuple[torch.Tensor, torch.nn.Conv2d]:
    """A map ``(B, H, W, C)`` and a depthwise convolution."""
    torch.manual_seed(height)
    conv = torch.nn.Conv2d(channels, channels, 3, stride, 1, groups=channels).requires_grad_(False)
    return torch.randn(2, height, width, channels) * 3, conv


def exact_conv(image: torch.Tensor, conv: torch.nn.Conv2d, gelu: bool) -> torch.Tensor:
    """The same in double precision."""
    found = copy.deepcopy(conv).double()(image.double().permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return (torch.nn.functional.gelu(found) if gelu else found).float()


@needs_compiler
@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2), (3, 4), (7, 7), (8, 6), (14, 23)])
def test_depthwise_equals_double_precision(size: tuple[int, int], stride: int, activation: str) -> None:
    """Maps smaller than the kernel, odd and even sides, and widths that no block of
    pixels divides.
    """
    image, conv = make_conv_case(48, *size, stride)
    found = NativeDepthwise(conv.weight, conv.bias, stride, activation)(image)
    torch.testing.assert_close(found, exact_conv(image, conv, activation == "gelu"), rtol=0, atol=5e-6)


@needs_compiler
def test_depthwise_keeps_extremes() -> None:
    """GELU far from zero is the identity or zero, and NaN stays NaN where the kernel touches it."""
    conv = torch.nn.Conv2d(16, 16, 3, 1, 1, groups=16).requires_grad_(False)
    conv.weight.zero_()[:, :, 1, 1] = 1
    conv.bias.zero_()
    image = torch.tensor([1e4, -1e4, 1e-20, -6.0]).view(1, 1, 4, 1).repeat(1, 1, 1, 16)
    found = NativeDepthwise(conv.weight, conv.bias, 1, "gelu")(image)
    torch.testing.assert_close(found, torch.nn.functional.gelu(image), rtol=1e-5, atol=1e-6)
    image[0, 0, 3] = torch.nan
    found = NativeDepthwise(conv.weight, conv.bias, 1, "gelu")(image)
    assert found[0, 0, 2:].isnan().all()
    assert found[0, 0, :2].isfinite().all()


@needs_compiler
def test_many_threads_at_once() -> None:
    """Calls from several Python threads do not disturb each other."""
    cases = [make_case(4, 7, 2, 32), make_case(2, 14, 2, 32)]
    kernels = [NativeAttention(bias, 2, 32) for _, bias in cases]
    wanted = [kernel(qkv) for kernel, (qkv, _) in zip(kernels, cases, strict=True)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: kernels[number % 2](cases[number % 2][0]), range(40)))
    assert all(torch.equal(one, wanted[number % 2]) for number, one in enumerate(found))


@needs_compiler
def test_refuses_what_it_is_not_made_for() -> None:
    with pytest.raises(native.NativeError, match="heads of a multiple of"):
        NativeAttention(torch.zeros(2, 49, 49), 2, 20)
    with pytest.raises(native.NativeError, match="square windows"):
        NativeAttention(torch.zeros(2, 48, 48), 2, 32)
    with pytest.raises(native.NativeError, match="depends on the offset alone"):
        NativeAttention(torch.randn(2, 49, 49), 2, 32)


@needs_compiler
def test_tensors_that_do_not_fit_are_refused() -> None:
    """Nothing else stands between an operator and memory that is not its own."""
    operators = native_kernels.operators()
    table = torch.zeros(2 * 7 * 13 + 16)
    with pytest.raises(ValueError, match=r"does not take torch\.float32 of"):
        operators.window_attention(torch.zeros(1, 48, 192), table, 2, 7)
    with pytest.raises(ValueError, match=r"does not take torch\.bfloat16"):
        operators.window_attention(torch.zeros(1, 49, 192, dtype=torch.bfloat16), table, 2, 7)
    with pytest.raises(ValueError, match=r"a kernel of \(3, 3, 16\) does not take"):
        operators.depthwise_conv(torch.zeros(1, 5, 5, 32), torch.zeros(3, 3, 16), torch.zeros(16), 1, False)


@needs_compiler
def test_deployed_with_and_without_it() -> None:
    """Both forms lie close to the module, and the report tells which is which."""
    module = create_model("tiny_vit_5m_224", num_classes=10).eval()
    fast, plain = deploy(module), deploy(module, native=False)
    assert fast.report.steps["attention in a compiled kernel"] == "in"
    assert plain.report.steps["attention in a compiled kernel"] == "not asked for"
    assert fast.report.steps["depthwise convolutions in a compiled kernel"] == "in"
    assert plain.report.steps["depthwise convolutions in a compiled kernel"] == "not asked for"
    narrow = TinyViT(embed_dims=(9, 18, 30, 42), depths=(1, 1, 1, 1), num_heads=(1, 3, 5, 7))
    steps = deploy(narrow).report.steps
    assert "these have 6" in steps["attention in a compiled kernel"]
    assert "these are 18" in steps["depthwise convolutions in a compiled kernel"]
    image = torch.randn(2, 3, 200, 160)
    torch.testing.assert_close(fast(image), plain(image), rtol=1e-5, atol=1e-5)


@needs_compiler
def test_a_library_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = native.load_native(native_kernels.SOURCE)
    (built,) = (tmp_path / "tinyvit" / "native").iterdir()
    made = built.stat().st_mtime_ns
    assert isinstance(first, ctypes.CDLL)
    assert isinstance(native.load_native(native_kernels.SOURCE), ctypes.CDLL)
    assert built.stat().st_mtime_ns == made
    assert (tmp_path / "tinyvit" / "native").stat().st_mode & 0o077 == 0
    built.chmod(0o777)
    with pytest.raises(native.NativeError, match="can be changed by somebody else"):
        native.load_native(native_kernels.SOURCE)


@pytest.mark.skipif(sys.platform != "linux", reason="kernels are built on Linux")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (native.SWITCH, "0", "switched off by TINYVIT_NATIVE=0"),
        ("CXX", "no-such-compiler", "no C\\+\\+ compiler 'no-such-compiler'"),
        ("CXX", "false", "false failed"),
        ("XDG_CACHE_HOME", "/dev/null", "cannot be made"),
    ],
)
def test_reasons(name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "XDG_CACHE_HOME" and not HAS_COMPILER:
        pytest.skip("no C++ compiler")
    monkeypatch.setenv(name, value)
    with pytest.raises(native.NativeError, match=message):
        native.load_native(native_kernels.SOURCE)


@needs_compiler
def test_a_source_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "broken.cpp"
    source.write_text("int broken( {")
    with pytest.raises(native.NativeError, match=r"c\+\+ failed: .*error"):
        native.load_native(source)
    assert not list((tmp_path / "tinyvit" / "native").iterdir())


def test_deploy_works_without_a_compiler(tmp_path: Path) -> None:
    """In a process of its own, as the operators are looked for once."""
    code = (
        "from tinyvit.backbones import create_model, deploy\n"
        "report = deploy(create_model('tiny_vit_5m_224')).report\n"
        "print(report.steps['attention in a compiled kernel'], report.difference < 1e-4)"
    )
    environment = {**os.environ, "CXX": "no-such-compiler", "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no C++ compiler" in done.stdout or "kernels are built on Linux" in done.stdout
    assert done.stdout.strip().endswith("True")


def test_fused_attention_equals_double_precision() -> None:
    qkv, bias = make_case(3, 7, 2, 32)
    found = FusedAttention(bias, 2, 32)(qkv)
    torch.testing.assert_close(found.double(), exact(qkv, bias, 2), rtol=0, atol=5e-6)
