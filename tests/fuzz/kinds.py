"""Kinds of inputs: each makes a valid input, lets it be mutated, and runs commands on it.

A kind is a function of one :class:`.run.Case`. It checks the results of commands that end with 0
against another reader of the same file. The current folder is a copy of the data that earlier code
wrote (``tests/written_before``).
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save

from . import mutations as m
from .run import Case, FindingError

NARROW = {"embed_dims": (8, 8, 8, 12), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 3), "img_size": 96}
CLASSIFIER, PHOTO = "export/classifier.onnx", "pictures/lake/boat.png"
WEIGHTS, STORES = Path("teachers/first.safetensors"), ("plain", "two", "compact", "mixed", "zipped", "imported")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise FindingError(what)


def _saved(content: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


# --- checkpoints --------------------------------------------------------------


def checkpoint(case: Case) -> None:
    """A state dict in one of several layouts and formats, read into one of our models."""
    from tinyvit.backbones import create_model

    state: dict[str, Any] = case.changed(m.edit_tensors, dict(load_file(WEIGHTS)))
    layout = case.pick("plain", "model", "ema", "lightning", "legacy", "safetensors")
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    content = {
        "model": {"model": state, "epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        "ema": {"model": {name: value * 2 for name, value in tensors.items()}, "model_ema": state},
        "lightning": {"state_dict": {f"net.{name}": value for name, value in state.items()}, "callbacks": {}},
    }.get(layout, state)
    if layout == "safetensors":
        data = save({name: value.contiguous().clone() for name, value in tensors.items()})
    else:
        data = _saved(content, **({"_use_new_zipfile_serialization": False} if layout == "legacy" else {}))
    if case.pick(0, 0, 1):
        data = case.changed(m.safetensors_bytes if layout == "safetensors" else m.edit_bytes, data)
    path = case.folder / case.pick("w.pth", "w.bin", "w.safetensors", "w")
    path.write_bytes(data)
    model: list[Any] = []
    kwargs = dict(NARROW, num_classes=case.pick(12, 12, 5))
    if not case.run(lambda: model.append(create_model("tiny_vit_5m_224", weights=path, **kwargs))).code:
        _same_values(model[0], path)


def _same_values(model: torch.nn.Module, path: Path) -> None:
    """Compare a loaded model with what torch or safetensors reads from the file."""
    there: list[torch.Tensor] = []
    for read in (lambda: torch.load(path, weights_only=True), lambda: load_file(path)):
        with contextlib.suppress(Exception):  # it is the other format, or holds further objects
            there += _tensors(read())
    for name, value in model.state_dict().items():
        _require(bool(torch.isfinite(value.float()).all()), f"loaded: {name} is not finite")
    if not there:
        return
    big = {name: value for name, value in model.named_parameters() if value.ndim > 1 and not name.startswith("head")}
    same = [any(v.shape == value.shape and torch.equal(v.float(), value) for v in there) for value in big.values()]
    _require(sum(same) > 0.7 * len(big), f"loaded: {sum(same)} of {len(big)} parameters have a tensor's values")


def _tensors(content: Any) -> Iterator[torch.Tensor]:
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _tensors(value)


def student(case: Case) -> None:
    """The safetensors file of a training, with its metadata, evaluated and exported."""
    path = case.folder / "student.safetensors"
    path.write_bytes(case.changed(m.safetensors_bytes, Path("runs/distilled/student.safetensors").read_bytes()))
    command = ("evaluate", "tiny_vit_5m_224", "--weights", path, "--data", "pictures", "--device", "cpu")
    ended = case.run(*command, "--work-dir", case.folder / "run", "--json", case.pick("--no-deploy", "--deploy"))
    if ended.code != 2:
        metrics = ended.document()["metrics"]
        _require(0 <= metrics["top1"] <= metrics["top5"] <= 1, f"accuracies {metrics['top1']}, {metrics['top5']}")


def timm_teacher(case: Case) -> None:
    """A checkpoint of a model of timm's as a teacher."""
    import timm

    torch.manual_seed(0)
    state = timm.create_model("test_vit", num_classes=12).state_dict()
    state = case.changed(m.edit_tensors, dict(state))
    path = case.folder / "w.pth"
    path.write_bytes(case.changed(m.edit_bytes, _saved(state)) if case.pick(0, 0, 0, 1) else _saved(state))
    _label(case, "pictures", f"timm:test_vit={path}", "--no-deploy")


def detector(case: Case) -> None:
    """The checkpoint of a detector."""
    path = case.folder / "epoch.pth"
    content = torch.load("runs/detector/epoch_150.pth", weights_only=False)
    if case.pick(0, 1):
        content["meta"] = case.changed(m.edit_json, json.loads(json.dumps(content.get("meta", {}), default=str)))
    else:
        content["state_dict"] = case.changed(m.edit_tensors, content["state_dict"])
    path.write_bytes(case.changed(m.edit_bytes, _saved(content)) if case.pick(0, 0, 0, 1) else _saved(content))
    command = ("detect", "predict", "runs/retinanet_small.py", PHOTO, "--weights", path, "--device", "cpu")
    ended = case.run(*command, "--work-dir", case.folder / "run", "--json")
    if not ended.code:
        ended.document()


def resumed(case: Case) -> None:
    """The checkpoint and the log of a training, which is resumed."""
    run = shutil.copytree("runs/distilled", case.folder / "run")
    kind = case.pick("content", "bytes", "log", "result")
    path = run / "checkpoints" / "iter_00000004.pth"
    if kind == "content":
        content = torch.load(path, weights_only=False)
        key = case.pick(*sorted(key for key, value in content.items() if isinstance(value, dict)))
        if any(isinstance(value, torch.Tensor) for value in content[key].values()):
            content[key] = case.changed(m.edit_tensors, content[key])
        else:
            content = {**content, key: case.changed(_shallow, content[key])}
        path.write_bytes(_saved(content))
    elif kind == "bytes":
        path.write_bytes(case.changed(m.edit_bytes, path.read_bytes()))
    elif kind == "log":
        log = run / "train_log.jsonl"
        log.write_bytes(case.changed(m.edit_bytes, log.read_bytes()))
    else:
        (run / "result.json").write_bytes(case.changed(m.json_bytes, (run / "result.json").read_bytes()))
    command = ("pretrain", "configs/distilled.py", "--data", "pictures", "--labels", "stores/plain", "--device", "cpu")
    ended = case.run(*command, "--work-dir", run, "--resume", "--json")
    if not ended.code:
        ended.document()


def _shallow(rng: Any, content: dict[Any, Any]) -> dict[Any, Any]:
    key = rng.choice(sorted(content, key=str))
    return {**content, key: rng.choice(m.ODD)} if rng.random() < 0.7 else {k: v for k, v in content.items() if k != key}


# --- images -------------------------------------------------------------------

_FORMATS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "PNG": (("RGB", "RGBA", "L", "LA", "P", "1", "I;16"), {}),
    "JPEG": (("RGB", "L", "CMYK"), {"quality": 90}),
    "TIFF": (("RGB", "L", "CMYK", "F", "I;16", "P", "1"), {}),
    "GIF": (("P", "L", "1"), {}),
    "WEBP": (("RGB", "RGBA"), {"lossless": True}),
    "BMP": (("RGB", "L", "P", "1"), {}),
    "PPM": (("RGB", "L", "1"), {}),
}


def image(case: Case) -> None:
    """An image file of one of the known formats, in every command that reads single images."""
    from tinyvit.core.images.decode import decode, decode_size

    name = case.pick(*_FORMATS)
    modes, options = _FORMATS[name]
    mode = case.pick(*modes)
    pixels = np.random.default_rng(case.seed % 7).integers(0, 256, (23, 31, 3), np.uint8)
    whole = Image.fromarray(pixels)
    if mode == "I;16":
        whole = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    elif mode != "RGB":
        whole = whole.convert(mode)
    more: dict[str, Any] = {}
    if name in ("PNG", "JPEG", "WEBP", "TIFF") and case.pick(0, 1):
        exif = Image.Exif()
        exif[0x0112] = case.pick(1, 3, 6, 8)
        more["exif"] = exif
    if name == "TIFF":
        more["compression"] = case.pick(*((None, "tiff_lzw", "tiff_deflate") if mode != "CMYK" else (None,)))
    stream = io.BytesIO()
    whole.save(stream, name, **options, **more)
    data = case.changed(m.edit_bytes, stream.getvalue())
    folder = case.folder / "images"
    folder.mkdir()
    shutil.copy(PHOTO, folder / "a.png")
    path = folder / "b.png"  # the content decides, not the name
    path.write_bytes(data)
    try:
        size: Any = decode(data).size
        _require(decode_size(data) == size, f"decode_size gives {decode_size(data)} and decode {size} ({name})")
    except FindingError:
        raise
    except Exception:
        size = None
    ended = case.run("export", "predict", CLASSIFIER, PHOTO, path, "--json")
    _require(ended.code == (0 if size else 1), f"export predict ends with {ended.code}, and decode gives {size}")
    ended = case.run("label", folder, case.folder / "store", "--teacher", CLASSIFIER, "--device", "cpu", "--json")
    if not ended.code:
        _require(len(ended.document()["metrics"]["invalid"]) == (size is None), f"label and decode differ: {size}")


def archive(case: Case) -> None:
    """A zip, a tar, or a folder of them."""
    source, files = case.pick("zip", "tar", "tars"), sorted(Path("pictures").rglob("*.png"))
    folder = case.folder / "data"
    folder.mkdir()
    data: Path = folder
    stream = io.BytesIO()
    if source == "zip":
        with zipfile.ZipFile(stream, "w", case.pick(zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)) as packed:
            for file in files:
                packed.write(file, file.relative_to("pictures"))
        data = folder / "x.zip"
    else:
        with tarfile.open(fileobj=stream, mode="w", format=case.pick(tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)) as packed:
            for file in files:
                packed.add(file, str(file.relative_to("pictures")))
        data = folder / "x.tar"
    data.write_bytes(case.changed(m.edit_bytes, stream.getvalue()))
    _label(case, folder if source == "tars" else data, CLASSIFIER)


def table(case: Case) -> None:
    """A CSV or Parquet list of images, and a CSV of their classes."""
    folder = shutil.copytree("pictures", case.folder / "pictures")
    kind = case.pick("csv", "parquet", "labels")
    text = (folder / "labels.csv").read_bytes()
    if kind == "labels":
        (folder / "labels.csv").write_bytes(case.changed(m.table_bytes, text))
        _label(case, folder, CLASSIFIER, "--labels", folder / "labels.csv")
    elif kind == "csv":
        (folder / "list.csv").write_bytes(case.changed(m.table_bytes, text))
        _label(case, folder / "list.csv", CLASSIFIER)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [line.split(",") for line in text.decode().splitlines()]
        columns = {name: [row[at] for row in rows[1:]] for at, name in enumerate(rows[0])}
        columns = case.changed(m.edit_json, columns) if case.pick(0, 1) else columns
        try:
            pq.write_table(pa.table(columns), folder / "list.parquet")
        except (pa.ArrowException, TypeError, AttributeError, ValueError, OverflowError):
            return  # not a table
        if case.pick(0, 1):
            (folder / "list.parquet").write_bytes(case.changed(m.edit_bytes, (folder / "list.parquet").read_bytes()))
        _label(case, folder / "list.parquet", CLASSIFIER)


def _label(case: Case, data: str | Path, teacher: str, *more: object) -> None:
    """Label images; a store that comes of it is whole."""
    store = case.folder / "store"
    ended = case.run("label", data, store, "--teacher", teacher, "--device", "cpu", "--threads", 1, "--json", *more)
    if not ended.code:
        ended.document()
        code = case.run("labels", "verify", store, "--data", data).code
        _require(code == 0, f"labels verify ends with {code} after label")


# --- ONNX files ---------------------------------------------------------------


def onnx_classifier(case: Case) -> None:
    """An exported classifier or file of feature maps."""
    name = case.pick("classifier", "features")
    path = case.folder / "x.onnx"
    path.write_bytes(case.changed(m.edit_onnx, Path(f"export/{name}.onnx").read_bytes()))
    ended = case.run("export", "predict", path, PHOTO, "--json", *case.pick((), ("--size", "96x64")))
    if ended.code:
        return
    (found,) = ended.document()["images"]
    if "classes" in found:
        shares = [guess["probability"] for guess in found["classes"]]
        _require(shares == sorted(shares, reverse=True), f"probabilities are not sorted: {shares}")
        _require(0 < sum(shares) <= 1 + 1e-6, f"probabilities add up to {sum(shares)}")


def onnx_teacher(case: Case) -> None:
    """An exported classifier as a teacher, with and without what our export says about it."""
    import onnx

    data = Path(CLASSIFIER).read_bytes()
    norm: tuple[object, ...] = ()
    if case.pick(0, 1):
        model = onnx.load_model_from_string(data)
        del model.metadata_props[:]
        data, norm = model.SerializeToString(), ("--teacher-size", 96)
    path = case.folder / "x.onnx"
    path.write_bytes(case.changed(m.edit_onnx, data))
    _label(case, "pictures", str(path), *norm)


# --- JSON files ---------------------------------------------------------------


def coco(case: Case) -> None:
    """COCO annotations, in testing and in training."""
    root = shutil.copytree("detect/coco", case.folder / "coco")
    path = root / "annotations" / f"instances_{case.pick('val', 'train')}2017.json"
    path.write_bytes(case.changed(m.json_bytes, path.read_bytes()))
    common = ("--data-root", root, "--device", "cpu", "--work-dir", case.folder / "run", "--img-size", 64, "--json")
    if case.pick(0, 0, 1):
        more = ("--max-iters", 1, "--batch-size", 2, "default_hooks.checkpoint.interval=1")
        ended = case.run("detect", "train", "runs/retinanet_small.py", *common, *more)
    else:
        weights = ("--weights", "runs/detector/epoch_150.pth")
        split = case.pick((), ("--eval-on-train",), ("--limit-images", 1, "--eval-on-train"))
        ended = case.run("detect", "test", "runs/retinanet_small.py", *weights, *common, *split)
    if not ended.code:
        ended.document()


def bench_result(case: Case) -> None:
    """A result of ``tinyvit bench``: compared, drawn, and taken as a baseline."""
    path = case.folder / "result.json"
    path.write_bytes(case.changed(m.json_bytes, Path("bench/result.json").read_bytes()))
    sides = case.pick((path, "bench/result.json"), ("bench/result.json", path), (path, path))
    ended = case.run("bench", "compare", *sides, "--json")
    if not ended.code:
        ended.document()
    case.run("bench", "compare", *sides)
    case.run("bench", "page", path, "--out", case.folder / "report.html")


#: Options of the commands that labelled two of the stores.
_LABELLED = {"plain": ("--views", 3, "--topk", 5), "two": ("--views", 2, "--augment", "deit")}


def store(case: Case) -> None:
    """A file of a soft-label store: described, verified, exported, trained from, labelled again."""
    from tinyvit.backbones.distill.store import SoftLabelStore, teacher_names

    name = case.pick(*STORES)
    folder = shutil.copytree(f"stores/{name}", case.folder / "store")
    path = folder / case.pick(*sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file()))
    change = m.json_bytes if path.suffix == ".json" else m.safetensors_bytes
    path.write_bytes(case.changed(change, path.read_bytes()))
    data = "pictures.zip" if name == "zipped" else "pictures"
    labels = case.pick(*teacher_names(Path(f"stores/{name}")))
    case.run("labels", "info", folder)
    whole = not case.run("labels", "verify", folder, *case.pick((), ("--data", data))).code
    if whole:
        found, earlier = SoftLabelStore.open(folder, labels), SoftLabelStore.open(Path(f"stores/{name}"), labels)
        places = np.indices((earlier.header.images, earlier.header.views)).reshape(2, -1)
        _require(
            np.array_equal(found.rows(*places), earlier.rows(*places)), f"verified, and {path.name} gives other rows"
        )
    case.run("labels", "export", folder, case.folder / "logits", "--labels", labels)
    case.run("labels", "merge", case.folder / "merged", folder, f"stores/{name}")
    if name in _LABELLED:
        weights = f"tiny_vit_5m_224=teachers/{'second' if labels == 'second' else 'first'}.safetensors"
        more = (
            *_LABELLED[name],
            *(("--as", labels, "--topk", 3 if labels == "second" else 5) if name == "two" else ()),
        )
        case.run("label", data, folder, "--teacher", weights, "--device", "cpu", "--threads", 1, *more)
    train = ("pretrain", "configs/distilled.py", "--data", data, "--labels", folder, "--device", "cpu")
    case.run(*train, "--work-dir", case.folder / "run", "--max-iters", 1, "warmup_iters=0", f"teacher={labels}")


def official(case: Case) -> None:
    """Logits as the official code saves them."""
    source = shutil.copytree("official", case.folder / "official")
    path = source / case.pick(*sorted(p.relative_to(source) for p in source.rglob("*") if p.is_file()))
    path.write_bytes(case.changed(m.edit_bytes, path.read_bytes() or b"x"))
    made = case.folder / "store"
    ended = case.run("labels", "import", source, made, "--data", "pictures", "--classes", 40)
    if not ended.code:
        _require(case.run("labels", "verify", made).code == 0, "labels verify fails after labels import")


def recipe(case: Case) -> None:
    """Keys of a recipe."""
    from tinyvit.backbones.distill.train.recipe import Recipe

    keys = sorted(set(Recipe.__dataclass_fields__) - {"data", "labels", "max_iters", "epochs", "workers"})
    keys += ["student.depths", "student.img_size", "student.num_heads", "student.window_sizes", "student.x", "x", ""]
    settings = [f"{case.rng.choice(keys)}={_literal(case)}" for _ in range(case.pick(0, 1, 1, 2))]
    train = ("pretrain", "configs/distilled.py", "--data", "pictures", "--labels", "stores/plain", "--device", "cpu")
    ended = case.run(*train, "--work-dir", case.folder / "run", "--max-iters", 1, "warmup_iters=0", "--json", *settings)
    if not ended.code:
        ended.document()


def _literal(case: Case) -> str:
    value = case.rng.choice([v for v in m.ODD if not (isinstance(v, (int, float)) and abs(v) > 10**6)])
    return value if isinstance(value, str) and "\0" not in value and case.rng.random() < 0.5 else repr(value)


def class_names(case: Case) -> None:
    """Names of classes for an export, as JSON or as text."""
    from tinyvit.api.deployment import read_classes

    names = [f"kind {number}" for number in range(12)]
    path = case.folder / case.pick("names.json", "names.txt")
    data = json.dumps(names).encode() if path.suffix == ".json" else "\n".join(names).encode()
    path.write_bytes(case.changed(m.json_bytes if path.suffix == ".json" else m.edit_bytes, data))
    case.run(lambda: read_classes(path) and None)


KINDS = {
    kind.__name__: kind
    for kind in (
        *(checkpoint, student, timm_teacher, detector, resumed, image, archive, table),
        *(onnx_classifier, onnx_teacher, coco, bench_result, store, official, recipe, class_names),
    )
}
