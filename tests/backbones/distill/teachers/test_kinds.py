"""Teachers beside our models and timm's: programs, Python functions, OpenCLIP, ensembles."""

from __future__ import annotations

import io
import json
import os
import sys
import types
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tinyvit.backbones.distill.teachers import TeacherSpec, file_sha256, load_teacher
from tinyvit.backbones.distill.teachers.archive import checked_archive, is_arithmetic
from tinyvit.core.errors import InputError, MissingExtraError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CLASSES = 6


class Net(nn.Module):
    """A small network that is not symmetric in anything."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 8, 4, 4)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def some_pixels(size: int = 32, count: int = 5) -> torch.Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def expected(network: nn.Module, pixels: torch.Tensor, mean=MEAN, std=STD) -> torch.Tensor:
    with torch.no_grad():
        return network(((pixels / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2))


def spec(*names: object, **more) -> TeacherSpec:
    return TeacherSpec(tuple(map(str, names)), **{"mean": MEAN, "std": STD, "size": 32, **more})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One network in every form."""
    path = tmp_path_factory.mktemp("programs")
    network, x = Net().eval(), torch.zeros(2, 3, 32, 32)
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.export.save(torch.export.export(network, (x,), dynamic_shapes=({0: batch},)), path / "free.pt2")
    torch.export.save(torch.export.export(network, (x,)), path / "fixed.pt2")
    torch.jit.trace(network, x).save(path / "net.pt")
    return path


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("name", ["free.pt2", "fixed.pt2", "net.pt"])
def test_programs_give_the_networks_logits_at_any_batch(folder, name):
    teacher = spec(folder / name, size=None if name.endswith("pt2") else 32).load()
    assert (teacher.name, teacher.num_classes, teacher.size) == (name, CLASSES, (32, 32))
    torch.testing.assert_close(teacher(some_pixels()), expected(Net().eval(), some_pixels()), rtol=1e-4, atol=1e-5)
    assert teacher.fingerprint["weights_sha256"] == file_sha256(folder / name)
    assert teacher.fingerprint["preprocess"]["mean"] == list(MEAN)
    assert teacher.fingerprint["details"] == {"answers": "logits"}
    assert teacher.deployed is None


def test_a_program_that_does_not_say_how_pictures_are_prepared_must_be_told(folder):
    with pytest.raises(InputError, match=r"give --teacher-mean and --teacher-std \(ImageNet's mean is 0\.485"):
        TeacherSpec((str(folder / "free.pt2"),)).load()
    with pytest.raises(InputError, match=r"give --teacher-size"):
        spec(folder / "net.pt", size=None).load()
    with pytest.raises(InputError, match=r"takes images of 32 x 32 pixels only, not of 64"):
        spec(folder / "free.pt2", size=64).load()
    with pytest.raises(InputError, match=r"net\.pt does not run on images of 2 x 2|must be a whole number"):
        spec(folder / "net.pt", size=2).load()


class Harmless:
    """Pickle makes a file when it reads this back, which proves that code ran."""

    def __reduce__(self):
        return os.mkdir, (os.environ["PROOF"],)


def test_a_program_that_would_be_unpickled_is_refused_before_anything_runs(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PROOF", str(tmp_path / "ran"))
    stream = io.BytesIO()
    torch.save({"x": Harmless()}, stream)
    inputs = next(n for n in zipfile.ZipFile(folder / "free.pt2").namelist() if "sample_inputs" in n)
    wrong = {
        "sample inputs": {inputs: stream.getvalue()},
        "legacy weights": {inputs.replace("sample_inputs", "weights"): stream.getvalue()},
        "a custom object": {inputs.replace("sample_inputs/model.pt", "constants/custom_obj_0"): b"anything"},
        "native code": {inputs.replace("sample_inputs/model.pt", "aotinductor/model/x.so"): b"\x7fELF"},
    }
    for what, members in wrong.items():
        path = tmp_path / "wrong.pt2"
        with zipfile.ZipFile(folder / "free.pt2") as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
            for name in source.namelist():
                target.writestr(name, members.pop(name) if name in members else source.read(name))
            for name, data in members.items():
                target.writestr(name, data)
        with pytest.raises(InputError, match="is rejected: it holds"):
            spec(path).load()
        assert not (tmp_path / "ran").exists(), what
    checked_archive(folder / "free.pt2")


def test_a_payload_that_the_archive_calls_pickled_is_looked_at(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PROOF", str(tmp_path / "ran"))
    stream = io.BytesIO()
    torch.save(Harmless(), stream)
    path = tmp_path / "wrong.pt2"
    with zipfile.ZipFile(folder / "free.pt2") as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        members = {name: source.read(name) for name in source.namelist()}
        name = next(name for name in members if name.endswith("_weights_config.json"))
        table = json.loads(members[name])
        first = next(iter(table["config"].values()))
        first["use_pickle"] = True
        members[name] = json.dumps(table).encode()
        members[f"{name.rpartition('/')[0]}/{first['path_name']}"] = stream.getvalue()
        for name, data in members.items():
            target.writestr(name, data)
    with pytest.raises(InputError, match=r"a pickled object \(.*weight_\d"):
        spec(path).load()
    assert not (tmp_path / "ran").exists()


def rewritten(source: Path, target: Path, change) -> Path:
    """A ``.pt2`` file with other members: ``change`` takes and returns pairs of name and bytes."""
    with zipfile.ZipFile(source) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        warnings.simplefilter("ignore", UserWarning)  # two members of one name
        for name, data in change(members):
            archive.writestr(zipfile.ZipInfo(name), data)
    return target


def evil_tensors() -> bytes:
    stream = io.BytesIO()
    torch.save({"x": Harmless()}, stream)
    return stream.getvalue()


@pytest.mark.parametrize("spelling", ["upper case", "upper case beside it", "twice, the evil one first"])
def test_members_are_looked_at_as_torch_reads_them(folder, tmp_path, monkeypatch, spelling):
    monkeypatch.setenv("PROOF", str(tmp_path / "ran"))

    def change(members):
        for name, data in members:
            if not name.endswith("sample_inputs/model.pt"):
                yield name, data
            elif spelling == "upper case":
                yield f"{name[:-3]}.PT", evil_tensors()
            else:
                yield (f"{name[:-3]}.PT" if "upper" in spelling else name), evil_tensors()
                yield name, data

    path = rewritten(folder / "free.pt2", tmp_path / "wrong.pt2", change)
    with pytest.raises(InputError, match=r"is rejected: it holds .*model\.(pt|PT)"):
        spec(path).load()
    assert not (tmp_path / "ran").exists()


CODE = "__import__('os').mkdir(__import__('os').environ['PROOF'])"


def put_expression(table: dict) -> None:
    values = table["graph_module"]["graph"]["tensor_values"].values()
    first = next(size for value in values for size in value["sizes"] if "as_expr" in size)
    first["as_expr"]["expr_str"] = CODE


def put_guard(table: dict) -> None:
    table["guards_code"] = [CODE]


def put_class(table: dict) -> None:
    signature = table["graph_module"]["module_call_graph"][0]["signature"]
    kind = json.dumps({"__enum__": True, "fqn": "antigravity:x", "name": "y"})
    signature["out_spec"] = json.dumps([1, {"type": "builtins.dict", "context": kind, "children_spec": []}])


def put_name(table: dict) -> None:
    table["graph_module"]["graph"]["inputs"][-1]["as_tensor"]["name"] = f"x={CODE}"


@pytest.mark.parametrize("put", [put_expression, put_guard, put_class, put_name])
def test_texts_that_torch_would_run_are_refused(folder, tmp_path, monkeypatch, put):
    monkeypatch.setenv("PROOF", str(tmp_path / "ran"))

    def change(members):
        for name, data in members:
            table = json.loads(data) if name.endswith("models/model.json") else None
            if table:
                put(table)
            yield name, json.dumps(table).encode() if table else data

    path = rewritten(folder / "free.pt2", tmp_path / "wrong.pt2", change)
    with pytest.raises(
        InputError, match=r"wrong\.pt2 is rejected: .*models/model\.json has .* which torch could run as"
    ):
        spec(path).load()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "of_inputs", "wanted"),
    [
        ("Mul(Integer(2), Symbol('s77', positive=True, integer=True))", False, True),
        ("2*s0 + (s1 // 8) - 1", False, True),
        ("2*(((-1) + L['x'].size()[2]) // 8) < torch.sym_max(1, L['x'].size()[3])", True, True),
        ("L['x'].size()[2]", False, False),
        ("L['x'].__class__", True, False),
        ("torch.os.getcwd()", True, False),
        ("Symbol('s0').__class__", False, False),
        ("Symbol('a.b()')", False, False),
        ("open(s0)", False, False),
        ("(lambda: s0)()", False, False),
        ("[s0 for s0 in s1]", False, False),
        ("s0 if s1 else s2", False, False),
        ("s0)", False, False),
    ],
)
def test_expressions_of_shapes_are_arithmetic(text, of_inputs, wanted):
    assert is_arithmetic(text, of_inputs) is wanted


@pytest.mark.parametrize("answers_in", ["tensor", "dictionary"])
def test_programs_of_free_size_with_guards_are_taken(tmp_path, answers_in):
    class Pooling(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
            small = nn.functional.max_pool2d(self.conv(x), 3, 2, 1)
            logits = self.head(torch.cat([small, small], 2).mean((2, 3)))
            return {"logits": logits} if answers_in == "dictionary" else logits

    dim = torch.export.Dim
    shapes = ({0: dim("b", max=64), 2: 32 * dim("h", max=8), 3: 32 * dim("w", max=8)},)
    program = torch.export.export(Pooling().eval(), (torch.zeros(2, 3, 64, 64),), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "any.pt2")
    teacher = spec(tmp_path / "any.pt2", size=96).load()
    assert teacher(some_pixels(96)).shape == (5, CLASSES)


def test_files_that_are_no_programs(tmp_path):
    torch.save(Net().state_dict(), tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=r"checkpoint\.pt cannot be loaded as TorchScript \(give a checkpoint as"):
        spec(tmp_path / "checkpoint.pt").load()
    (tmp_path / "noise.pt2").write_bytes(b"noise")
    with pytest.raises(InputError, match=r"noise\.pt2 is not a file of torch\.export\.save"):
        spec(tmp_path / "noise.pt2").load()
    with pytest.raises(InputError, match=r"none\.pt2 does not exist"):
        spec(tmp_path / "none.pt2").load()
    with pytest.raises(InputError, match="brings its own weights"):
        spec(tmp_path / "noise.pt2", weights=tmp_path / "x.pth").load()


# --- ONNX ---------------------------------------------------------------------


def write_onnx(path: Path, *, batch: int | str = "n", nhwc: bool = False, softmax: bool = False) -> np.ndarray:
    """A linear classifier on the mean colour; returns its matrix ``(3, C)``."""
    onnx = pytest.importorskip("onnx")
    matrix = np.random.default_rng(0).normal(size=(3, CLASSES)).astype(np.float32)
    helper, kind = onnx.helper, onnx.TensorProto
    shape = [batch, 32, 32, 3] if nhwc else [batch, 3, 32, 32]
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=kind.FLOAT)]
    nodes += [helper.make_node("ReduceMean", ["f", "axes"], ["m"], keepdims=0)]
    nodes += [helper.make_node("MatMul", ["m", "w"], ["y" if softmax else "logits"])]
    nodes += [helper.make_node("Softmax", ["y"], ["logits"], axis=1)] if softmax else []
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind.UINT8 if nhwc else kind.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", kind.FLOAT, [batch, CLASSES])],
        [
            onnx.numpy_helper.from_array(matrix, "w"),
            onnx.numpy_helper.from_array(np.array([1, 2] if nhwc else [2, 3]), "axes"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return matrix


@pytest.mark.parametrize("batch", ["n", 2])
def test_onnx_files_run_at_any_batch(tmp_path, batch):
    pytest.importorskip("onnxruntime")
    matrix = write_onnx(tmp_path / "net.onnx", batch=batch)
    teacher = spec(tmp_path / "net.onnx", size=None).load()
    wanted = expected(_Mean(matrix), some_pixels())
    torch.testing.assert_close(teacher(some_pixels()), wanted, rtol=1e-4, atol=1e-4)
    assert "onnxruntime" in teacher.fingerprint["code"]
    with pytest.raises(InputError, match=r"net\.onnx runs at fp32, not at bf16"):
        replace(spec(tmp_path / "net.onnx"), precision="bf16").load()


def test_onnx_files_that_take_bytes_or_answer_with_probabilities(tmp_path):
    pytest.importorskip("onnxruntime")
    matrix = write_onnx(tmp_path / "bytes.onnx", nhwc=True)
    teacher = TeacherSpec((str(tmp_path / "bytes.onnx"),)).load()
    torch.testing.assert_close(teacher(some_pixels()), some_pixels().float().mean((1, 2)) @ torch.from_numpy(matrix))
    matrix = write_onnx(tmp_path / "soft.onnx", softmax=True)
    teacher = spec(tmp_path / "soft.onnx").load()
    assert teacher.fingerprint["details"] == {"answers": "probabilities"}
    wanted = expected(_Mean(matrix), some_pixels()).log_softmax(1)
    torch.testing.assert_close(teacher(some_pixels()), wanted, rtol=1e-4, atol=1e-4)


def write_any_onnx(path, shape, outputs, *, kind="FLOAT", dtype=None):
    """Mean of each colour times a matrix; every output is those logits in its own shape."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, types = onnx.helper, onnx.TensorProto
    last = shape[3] in (3, 4)
    matrix = np.random.default_rng(0).normal(size=(shape[3] if last else shape[1], CLASSES)).astype(np.float32)
    axes = [1, 2] if last else [2, 3]
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=types.FLOAT)]
    nodes += [helper.make_node("ReduceMean", ["f", "axes"], ["m"], keepdims=0)]
    nodes += [helper.make_node("MatMul", ["m", "w"], ["y"])]
    held = [onnx.numpy_helper.from_array(matrix, "w"), onnx.numpy_helper.from_array(np.array(axes), "axes")]
    infos = []
    for at, (name, tail) in enumerate(outputs.items()):
        held.append(onnx.numpy_helper.from_array(np.array([0 if one == "n" else one for one in tail]), f"s{at}"))
        to = types.INT64 if name == "label" else getattr(types, dtype or "FLOAT")
        nodes += [helper.make_node("Reshape", ["y", f"s{at}"], [f"r{at}"])]
        nodes += [helper.make_node("Cast", [f"r{at}"], [name], to=to)]
        infos.append(helper.make_tensor_value_info(name, to, list(tail)))
    image = helper.make_tensor_value_info("x", getattr(types, kind), list(shape))
    graph = helper.make_graph(nodes, "g", [image], infos, held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return torch.from_numpy(matrix)


@pytest.mark.parametrize("tail", [("n", CLASSES), ("n", CLASSES, 1, 1), ("n", 1, CLASSES), ("n", 1, 1, CLASSES)])
@pytest.mark.parametrize("kind", ["FLOAT", "FLOAT16", "DOUBLE", "UINT8"])
@pytest.mark.parametrize("shape", [("n", 3, 32, 32), ("n", 32, 32, 3), ("n", 3, "h", "w"), (2, 32, 32, 3)])
def test_onnx_files_of_any_layout_type_and_rank(tmp_path, shape, kind, tail):
    tail = (shape[0], *tail[1:])
    matrix = write_any_onnx(tmp_path / "any.onnx", shape, {"y0": tail}, kind=kind)
    bytes_in = kind == "UINT8"
    teacher = (TeacherSpec((str(tmp_path / "any.onnx"),), size=32) if bytes_in else spec(tmp_path / "any.onnx")).load()
    assert teacher.size == (32, 32)
    pixels = some_pixels()
    wanted = pixels.float().mean((1, 2)) @ matrix if bytes_in else expected(_Mean(matrix.numpy()), pixels)
    loose = {"rtol": 2e-2, "atol": 2e-2} if kind == "FLOAT16" else {"rtol": 1e-4, "atol": 1e-3}
    torch.testing.assert_close(teacher(pixels), wanted, **loose)


def test_one_output_of_several_is_chosen_by_its_name(tmp_path):
    path = tmp_path / "two.onnx"
    outputs = {"features": ("n", 2, CLASSES // 2), "scores": ("n", CLASSES), "label": ("n", CLASSES)}
    matrix = write_any_onnx(path, ("n", 3, 32, 32), outputs)
    with pytest.raises(InputError, match=r"several outputs; choose one with --teacher-output: features tensor"):
        spec(path).load()
    with pytest.raises(InputError, match=r"has no output 'score'; give one of these as --teacher-output: features"):
        replace(spec(path), output="score").load()
    with pytest.raises(InputError, match=r"the output label of .* is tensor\(int64\) and not logits"):
        replace(spec(path), output="label").load()
    with pytest.raises(InputError, match=r"0 tensors of shape .*; it gave \[2, 2, 3\]"):
        replace(spec(path), output="features").load()
    teacher = replace(spec(path), output="scores").load()
    wanted = expected(_Mean(matrix.numpy()), some_pixels())
    torch.testing.assert_close(teacher(some_pixels()), wanted, rtol=1e-4, atol=1e-3)
    assert teacher.fingerprint["details"] == {"answers": "logits", "output": "scores"}
    write_any_onnx(tmp_path / "one.onnx", ("n", 3, 32, 32), {"y0": ("n", CLASSES)})
    both = replace(spec(path, tmp_path / "one.onnx"), output="scores").load()
    torch.testing.assert_close(both(some_pixels()).softmax(1), wanted.softmax(1), rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match="has no named outputs"):
        TeacherSpec(("efficientnet_lite2",), output="logits").load()


@pytest.mark.parametrize("shape", [("n", 3, 24, 32), ("n", 24, 32, 3)])
def test_an_input_that_is_not_square_keeps_its_sides(tmp_path, shape):
    write_any_onnx(tmp_path / "wide.onnx", shape, {"y0": ("n", CLASSES)}, kind="UINT8")
    teacher = TeacherSpec((str(tmp_path / "wide.onnx"),)).load()
    assert teacher.size == (24, 32)
    image = Image.fromarray(np.full((50, 40, 3), 200, np.uint8))
    assert np.asarray(teacher.preprocess.crop(image)).shape == (24, 32, 3)
    assert np.asarray(teacher.preprocess.crop(image)).min() == 200  # no border


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (("n", 1, 32, 32), r"takes images with 1 channel \['n', 1, 32, 32\]; a teacher takes 3, red, green and blue"),
        (("n", 32, 32, 4), "takes images with 4 channels"),
        (("n", 7, 32, 32), r"takes tensor\(float\) \['n', 7, 32, 32\]; a teacher takes floats or bytes"),
    ],
)
def test_onnx_files_of_other_images_are_refused_with_what_they_take(tmp_path, shape, message):
    write_any_onnx(tmp_path / "other.onnx", shape, {"y0": ("n", CLASSES)})
    with pytest.raises(InputError, match=message):
        spec(tmp_path / "other.onnx").load()


def test_our_own_onnx_files_say_how_pictures_are_prepared(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    matrix = write_onnx(tmp_path / "net.onnx")
    proto = onnx.load(tmp_path / "net.onnx")
    card = {"format_version": "1", "input_format": "normalized", "size": "[32, 32]", "mean": json.dumps(MEAN)}
    card |= {"std": json.dumps(STD), "crop_pct": "0.9", "crop_mode": "center", "interpolation": "bilinear"}
    for key, value in card.items():
        proto.metadata_props.add(key=key, value=value)
    onnx.save(proto, tmp_path / "net.onnx")
    teacher = load_teacher(str(tmp_path / "net.onnx"))
    assert (teacher.preprocess.crop_pct, teacher.preprocess.interpolation) == (0.9, "bilinear")
    torch.testing.assert_close(teacher(some_pixels()), expected(_Mean(matrix), some_pixels()), rtol=1e-4, atol=1e-4)


def test_tensors_beside_an_onnx_file_belong_to_its_fingerprint(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    write_onnx(tmp_path / "net.onnx")
    proto = onnx.load(tmp_path / "net.onnx")
    # Only the matrix: onnxruntime wants axes inside the file.
    onnx.save(proto, tmp_path / "big.onnx", save_as_external_data=True, location="big.data", size_threshold=64)
    first = spec(tmp_path / "big.onnx").load().fingerprint["weights_sha256"]
    data = bytearray((tmp_path / "big.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "big.data").write_bytes(data)
    assert spec(tmp_path / "big.onnx").load().fingerprint["weights_sha256"] != first


class _Mean(nn.Module):
    def __init__(self, matrix: np.ndarray) -> None:
        super().__init__()
        self.matrix = torch.from_numpy(matrix)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) @ self.matrix


# --- functions ----------------------------------------------------------------

SOURCE = """
import torch

class Net(torch.nn.Module):
    pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "crop_pct": 1.0}

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.head = torch.nn.Linear(3, 4)

    def forward(self, x):
        return {"features": x, "logits": self.head(x.mean((2, 3)))}

def module():
    return Net()

def plain():
    def logits(x):
        return x.mean((2, 3))
    logits.fingerprint = "colours"
    return logits

def number():
    return 7

def broken():
    raise RuntimeError("no weights here")

def breaks():
    def logits(x):
        if len(x) > 2:
            raise ValueError("too many")
        return x.mean((2, 3))
    return logits
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch) -> str:
    name = f"own_teacher_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_a_function_makes_a_module_that_says_how_pictures_are_prepared(own_module):
    teacher = load_teacher(f"{own_module}:module")
    assert (teacher.num_classes, teacher.size) == (4, (32, 32))
    wanted = expected(_logits_of(sys.modules[own_module].Net()), some_pixels())
    torch.testing.assert_close(teacher(some_pixels()), wanted, rtol=1e-4, atol=1e-5)
    assert teacher.fingerprint["name"] == f"{own_module}:module"
    assert len(teacher.fingerprint["weights_sha256"]) == 64


def test_a_function_may_make_any_callable(own_module):
    teacher = spec(f"{own_module}:plain").load()
    torch.testing.assert_close(teacher(some_pixels()), expected(_Mean(np.eye(3, dtype=np.float32)), some_pixels()))
    assert teacher.fingerprint["details"]["fingerprint"] == "colours"
    with pytest.raises(InputError, match="returned 7; expected a module"):
        load_teacher(f"{own_module}:number")
    with pytest.raises(
        InputError, match=rf"{own_module}:broken raised RuntimeError: no weights here \(.*py, line 28\)"
    ):
        load_teacher(f"{own_module}:broken")
    with pytest.raises(InputError, match=r"the teacher of .*:breaks raised ValueError: too many \(.*py, line 33\)"):
        spec(f"{own_module}:breaks").load()(some_pixels())
    with pytest.raises(InputError, match="cannot find"):
        load_teacher(f"{own_module}:nothing")


def test_changed_source_is_another_teacher(own_module, tmp_path):
    import importlib

    first = load_teacher(f"{own_module}:module").fingerprint
    (tmp_path / f"{own_module}.py").write_text(SOURCE + "\n# changed\n")
    importlib.invalidate_caches()
    assert load_teacher(f"{own_module}:module").fingerprint["code"] != first["code"]


def _logits_of(network: nn.Module):
    return lambda x: network(x)["logits"]


# --- ensembles ----------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_an_ensemble_is_the_mean_of_the_members_probabilities(folder, tmp_path):
    other = Net(seed=1).eval()
    torch.jit.trace(other, torch.zeros(2, 3, 32, 32)).save(tmp_path / "other.pt")
    teacher = spec(folder / "free.pt2", tmp_path / "other.pt").load()
    mean = sum(expected(net, some_pixels()).softmax(1) for net in (Net().eval(), other)) / 2
    torch.testing.assert_close(teacher(some_pixels()).softmax(1), mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(teacher(some_pixels()), mean.log(), rtol=1e-4, atol=1e-5)
    assert teacher.name == "free.pt2 + other.pt"
    members = teacher.fingerprint["details"]["members"]
    assert [member["weights_sha256"] for member in members] == [
        file_sha256(folder / "free.pt2"),
        file_sha256(tmp_path / "other.pt"),
    ]


def test_members_of_an_ensemble_keep_their_own_preparation_size_and_weights(tmp_path, own_module):
    import timm

    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=4).eval()
    torch.save(model.state_dict(), tmp_path / "a.pth")
    teacher = TeacherSpec((f"timm:test_efficientnet={tmp_path / 'a.pth'}", f"{own_module}:module")).load()
    assert teacher.size == (160, 160)
    assert teacher.deployed is not None
    assert list(teacher.deployed) == ["member 0"]
    assert teacher.fingerprint["deployed"]
    pixels = some_pixels(160)
    config = model.pretrained_cfg
    own = _logits_of(sys.modules[own_module].Net())
    small = nn.functional.interpolate(pixels.permute(0, 3, 1, 2) / 255, (32, 32), mode="bicubic", antialias=True).clamp(
        0, 1
    )
    parts = [expected(model, pixels, config["mean"], config["std"])]
    parts += [own((small - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])]
    mean = sum(part.softmax(1) for part in parts) / 2
    torch.testing.assert_close(teacher(pixels).softmax(1), mean.detach(), rtol=1e-3, atol=1e-4)


def test_an_ensemble_needs_the_same_classes_and_a_precision_that_all_have(folder, tmp_path, own_module):
    with pytest.raises(InputError, match=r"same classes: free\.pt2 has 6, and own_teacher_.*:module 4"):
        spec(folder / "free.pt2", f"{own_module}:module").load()
    with pytest.raises(InputError, match="give each its weights as NAME=FILE"):
        spec("a", "b", weights=tmp_path / "x.pth")
    with pytest.raises(InputError, match="has two weights files"):
        spec("timm:test_vit=a.pth", weights=tmp_path / "x.pth").load()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"std": (0.0, 1.0, 1.0)}, "each of its numbers must be above 0"),
        ({"crop_pct": 2.0}, r"must be from 0\.05 to 1"),
        ({"size": 4}, "input size"),
    ],
)
def test_impossible_preparation_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        spec("x.onnx", **wrong)


def test_what_a_single_teacher_says_about_itself_can_be_replaced(own_module):
    teacher = TeacherSpec(
        (f"{own_module}:module",), mean=(0.1, 0.1, 0.1), interpolation="bilinear", crop_pct=0.5
    ).load()
    made = teacher.fingerprint["preprocess"]
    assert (made["mean"], made["std"], made["crop_pct"], made["interpolation"]) == (
        [0.1, 0.1, 0.1], [0.2, 0.25, 0.3], 0.5, "bilinear",
    )  # fmt: skip


def test_fp16_is_for_cuda(folder):
    with pytest.raises(InputError, match="fp16 is for CUDA"):
        spec(folder / "free.pt2", precision="fp16").load()


@pytest.mark.parametrize("names", [["free.pt2"], ["free.pt2", "fixed.pt2"]])
def test_the_card_is_the_teachers(folder, names):
    wanted = spec(*(folder / name for name in names))
    card, teacher = wanted.describe(), wanted.load()
    assert teacher.fingerprint["deployed"] is False  # there is no such form of a program
    assert (card.fingerprint, card.num_classes, card.size) == (teacher.fingerprint, teacher.num_classes, teacher.size)


# --- OpenCLIP -----------------------------------------------------------------


class FakeClip(nn.Module):
    """The few things of an open_clip model that a zero-shot teacher uses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.visual = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
        self.visual.image_size, self.visual.image_mean, self.visual.image_std = (16, 16), None, None
        self.words = nn.Embedding(256, 5)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.words(tokens).mean(1)


@pytest.fixture
def clip(monkeypatch, tmp_path) -> Path:
    """A stand-in for the package; returns a weights file."""
    fake = types.ModuleType("open_clip")
    fake.OPENAI_DATASET_MEAN, fake.OPENAI_DATASET_STD = MEAN, STD
    fake.list_models = lambda: ["Fake-1"]
    fake.create_model = lambda name, pretrained=None, **more: FakeClip()

    def tokenize(texts: list[str]) -> torch.Tensor:
        return torch.tensor([[ord(text[at % len(text)]) % 256 for at in range(40)] for text in texts])

    fake.get_tokenizer = lambda name: tokenize
    monkeypatch.setitem(sys.modules, "open_clip", fake)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0")
    torch.save(FakeClip().state_dict(), tmp_path / "clip.pt")
    (tmp_path / "classes.txt").write_text("cat\ndog\n\nflat-coated retriever\n")
    (tmp_path / "prompts.txt").write_text("a photo of a {}.\na drawing of a {}.\n")
    return tmp_path / "clip.pt"


def test_open_clip_answers_with_scaled_similarities_to_the_class_names(clip):
    texts = {"classes": clip.with_name("classes.txt"), "prompts": clip.with_name("prompts.txt")}
    teacher = TeacherSpec(("open_clip:Fake-1",), weights=clip, **texts).load()
    assert (teacher.num_classes, teacher.size) == (3, (16, 16))
    model = FakeClip()
    tokenize = sys.modules["open_clip"].get_tokenizer("Fake-1")
    vectors = []
    for name in ("cat", "dog", "flat-coated retriever"):
        both = nn.functional.normalize(
            model.encode_text(tokenize([f"a photo of a {name}.", f"a drawing of a {name}."]))
        )
        vectors.append(nn.functional.normalize(both.mean(0), dim=0))
    image = nn.functional.normalize(expected(model.visual, some_pixels(16)))
    wanted = model.logit_scale.exp().item() * image @ torch.stack(vectors).T
    torch.testing.assert_close(teacher(some_pixels(16)), wanted.detach(), rtol=1e-4, atol=1e-5)
    other = replace(TeacherSpec(("open_clip:Fake-1",), weights=clip, **texts), prompts=None).describe()
    assert other.fingerprint["details"] != teacher.fingerprint["details"]


def test_open_clip_compares_in_float32_at_any_precision(clip):
    classes = clip.with_name("classes.txt")
    teacher = TeacherSpec(("open_clip:Fake-1",), weights=clip, classes=classes, precision="bf16").load()
    vectors = teacher.module.classes
    x = some_pixels(16).permute(0, 3, 1, 2).float()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        features = teacher.module.visual(x)
        logits = teacher.module(x)
    assert (features.dtype, logits.dtype) == (torch.bfloat16, torch.float32)
    wanted = teacher.module.scale * nn.functional.normalize(features.float(), dim=-1) @ vectors.T
    torch.testing.assert_close(logits, wanted, rtol=1e-6, atol=1e-6)


def test_open_clip_says_what_it_needs(clip, tmp_path, monkeypatch):
    bare = TeacherSpec(("open_clip:Fake-1",), weights=clip)
    with pytest.raises(InputError, match="--teacher-classes FILE, one name per line"):
        bare.load()
    with pytest.raises(InputError, match="needs a weights file"):
        TeacherSpec(("open_clip:Fake-1",)).load()
    (tmp_path / "flat.txt").write_text("a photo\n")
    with pytest.raises(InputError, match=r"'a photo' of .* has no \{\}"):
        replace(bare, classes=clip.with_name("classes.txt"), prompts=tmp_path / "flat.txt").load()
    with pytest.raises(InputError, match="open_clip has no model 'Fake-2'"):
        replace(bare, names=("open_clip:Fake-2",), classes=clip.with_name("classes.txt")).load()
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tinyvit\[clip\]'"):
        bare.load()


def test_a_real_open_clip_model(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    name = "ViT-S-16"
    torch.manual_seed(0)
    model = open_clip.create_model(name, pretrained=None).eval()
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    (tmp_path / "classes.txt").write_text("cat\ndog\ntree\n")
    wanted = TeacherSpec((f"open_clip:{name}",), weights=tmp_path / "clip.pt", classes=tmp_path / "classes.txt")
    teacher = wanted.load()
    pixels = some_pixels(224, 2)
    with torch.no_grad():
        x = expected(nn.Identity(), pixels, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
        tokens = open_clip.get_tokenizer(name)([f"a photo of a {one}." for one in ("cat", "dog", "tree")])
        image, text, scale = model(x, tokens)[:3]
    torch.testing.assert_close(teacher(pixels), scale * image @ text.T, rtol=1e-3, atol=1e-3)
