"""Makes ``data/``: what the code of commit 7befe18 wrote, before its modules moved, and what it
read from that.

Run it with the code of that commit and no other (later code proves nothing about files that it
wrote itself)::

    git worktree add before 7befe18 && cd before && make setup
    OMP_NUM_THREADS=1 .venv/bin/python FOLDER_OF_THIS_FILE/make_data.py OUT

``OUT`` is a new folder, which takes the place of ``data/``; it takes two minutes. Everything is
made by commands with relative paths, run inside it, so that no file names a folder of the machine.
A second run gives the same bytes but for times and dates. Private modules are imported here as they
were called then; nothing else imports this file.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import shutil
import struct
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import nn

from tinyvit.backbones import create_model
from tinyvit.cli import main

COMMIT = "7befe18"
#: A TinyViT of 8,000 parameters.
SMALL = {"img_size": 96, "embed_dims": [8, 8, 8, 12], "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 3]}
MODEL = "tiny_vit_5m_224"
CLASSES = {"first": 12, "second": 7}
#: Stem of an image -> its folder. The last one cannot be read.
PICTURES = {
    "anchor": "lake",
    "boat": "lake",
    "crane": "lake/shore",
    "dune": "sand",
    "elm": "wood",
    "fern": "wood",
    "gorse": "wood/edge",
    "heron": "lake/shore",
    "ivy": "wood",
    "broken": "sand",
}
OFFICIAL_TOPK = 4
#: Written by hand, and taken over as they are: a user's recipes, and a network of the speed
#: harness.
BY_HAND = (
    "bench/small_network.py",
    *(f"configs/{name}.py" for name in ("_short", "averaged", "deit", "distilled", "higher_resolution", "teacher")),
)
DETECTOR = "runs/retinanet_small.py"
DETECTOR_EPOCHS = 150

Expected = dict[str, Any]
Arrays = dict[str, np.ndarray]


def run(*arguments: object) -> str:
    """Run a command in this process; its standard output."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            if ended.code:
                raise RuntimeError(f"exit code {ended.code}: tinyvit {' '.join(map(str, arguments))}") from ended
    return out.getvalue()


# --- images ------------------------------------------------------------------


def draw(number: int, size: tuple[int, int]) -> Image.Image:
    """A coloured ground with a disc and a bar; every number is another image."""
    random = np.random.default_rng(number)
    ground, disc, bar = (tuple(int(value) for value in random.integers(0, 256, 3)) for _ in range(3))
    image = Image.new("RGB", size, ground)
    x, y = (int(value) for value in random.integers(4, 30, 2))
    pen = ImageDraw.Draw(image)
    pen.ellipse((x, y, x + 28, y + 24), fill=disc)
    pen.polygon([(0, 40 - y), (size[0], y + 10), (size[0], y + 18), (0, 52 - y)], fill=bar)
    return image


def draw_pictures() -> None:
    """``pictures/`` with ``labels.csv``, the readable ones as a list, and the same
    files in a zip.
    """
    lines = []
    for number, (stem, folder) in enumerate(sorted(PICTURES.items())):
        path = Path("pictures", folder, f"{stem}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        image = draw(number, (64, 64) if number % 3 else (72, 60))
        (image.convert("L") if stem == "elm" else image).save(path)
        if stem == "broken":
            path.write_bytes(path.read_bytes()[:20])
        else:
            lines.append((str(path.relative_to("pictures")), number % 5))
    lines.sort()
    write_csv("pictures/labels.csv", lines)
    write_csv("readable.csv", [(f"pictures/{name}", label) for name, label in lines])


def write_csv(path: str, lines: Iterable[tuple[str, int]]) -> None:
    """True classes of files."""
    with open(path, "w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([("file", "class_index"), *lines])


def zip_pictures() -> None:
    """``pictures.zip``, the same on every day."""
    with zipfile.ZipFile("pictures.zip", "w") as archive:
        for path in sorted(Path("pictures").rglob("*.png")):
            entry = zipfile.ZipInfo(str(path.relative_to("pictures")))
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)


# --- models -------------------------------------------------------------------


def spread_weights(path: Path, classes: int, seed: int) -> None:
    """Random weights, none at a neutral value, with statistics that let the image through."""
    torch.manual_seed(seed)
    model = create_model(MODEL, num_classes=classes, **SMALL)
    spread = {"attention_biases": 0.5, "head.fc.weight": 0.6, "bias": 0.1}
    for name, value in model.named_parameters():
        if value.ndim == 1 and name.endswith("weight"):
            nn.init.uniform_(value, 0.5, 1.5)
        elif std := next((spread[key] for key in spread if name.endswith(key)), None):
            nn.init.normal_(value, std=std)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        coarse = torch.randn(16, 3, 6, 6) * torch.rand(16, 1, 1, 1) * 2
        model.train()(nn.functional.interpolate(coarse, size=(96, 96), mode="bicubic"))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)


def train_teachers(commands: Expected) -> None:
    """Two classifiers, fine-tuned for a moment on true classes, which writes
    ``student.safetensors``.
    """
    Path("teachers").mkdir()
    for seed, (name, classes) in enumerate(CLASSES.items()):
        spread_weights(Path("start.safetensors"), classes, seed)
        command = ["finetune", "configs/teacher.py", "--weights", "start.safetensors", "--data", "readable.csv"]
        command += ["--work-dir", f"made/{name}", "--device", "cpu", "--cfg-options", f"num_classes={classes}"]
        run(*command)
        shutil.copy(f"made/{name}/student.safetensors", f"teachers/{name}.safetensors")
        commands[f"teacher {name}"] = command
    Path("start.safetensors").unlink()


def fixed_input(arrays: Arrays) -> None:
    """Two images of coloured squares as bytes, and normalised as every model here is fed."""
    squares = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    arrays["bytes"] = squares.repeat(6, axis=1).repeat(6, axis=2)
    scaled = arrays["bytes"].transpose(0, 3, 1, 2).astype(np.float32) / 255
    arrays["batch"] = ((scaled - 0.45) / 0.225).astype(np.float32)


def look_at(name: str, module: nn.Module, pixels: torch.Tensor, arrays: Arrays) -> None:
    """Keep what a model answers."""
    with torch.inference_mode():
        arrays[name] = module.eval()(pixels).numpy()


def expect_weights(arrays: Arrays) -> None:
    """Logits of every weights file on one fixed batch."""
    batch = torch.from_numpy(arrays["batch"])
    for file in sorted([*Path("teachers").glob("*.safetensors"), *Path("runs").glob("*/student.safetensors")]):
        look_at(f"logits {file}", create_model(MODEL, weights=file, **SMALL), batch, arrays)
    for file in sorted(Path("runs").glob("*/checkpoints/*.pth")):
        look_at(f"logits {file}", create_model(MODEL, weights=file, **SMALL), batch, arrays)


# --- stores -------------------------------------------------------------------


def label(store: str, teacher: str, *more: object, data: str = "pictures") -> list[str]:
    """A labelling command."""
    command = ["label", data, f"stores/{store}", "--teacher", f"{MODEL}=teachers/{teacher}.safetensors"]
    command += ["--shard-size", 4, "--batch-size", 4, "--threads", 1, "--device", "cpu", *more]
    return [str(part) for part in command]


def make_stores(commands: Expected) -> None:
    """Stores of every coding and kind of view; the last command of each resumes it."""
    made = {
        "plain": [
            label("plain", "first", "--views", 1, "--topk", 5),
            label("plain", "first", "--views", 3, "--topk", 5),
        ],
        "compact": [label("compact", "first", "--views", 2, "--topk", 8, "--compact", "--augment", "tinyvit")],
        "mixed": [label("mixed", "first", "--views", 3, "--topk", 6, "--augment", "deit3", "--seed", 3)],
        "two": [
            label("two", "first", "--views", 2, "--topk", 5, "--augment", "deit", "--as", "first"),
            label("two", "second", "--views", 2, "--topk", 3, "--augment", "deit", "--as", "second"),
        ],
        "zipped": [label("zipped", "first", "--centre", "--topk", 12, "--no-deploy", data="pictures.zip")],
    }
    for name, lines in made.items():
        for command in lines:
            run(*command)
        commands[f"store {name}"] = lines
    write_official()
    command = ["labels", "import", "official", "stores/imported", "--data", "pictures", "--classes", 40]
    run(*command)
    commands["store imported"] = [[str(part) for part in command]]


def write_official() -> None:
    """Logits as the official TinyViT code saves them: two epochs, two and three ranks, one image
    twice.
    """
    random = np.random.default_rng(5)
    stems = sorted(PICTURES)
    for epoch, ranks in {3: [stems[::2], [*stems[1::2], stems[0]]], 7: [stems, [], stems[:1]]}.items():
        folder = Path("official", f"logits_top{OFFICIAL_TOPK}_epoch{epoch}")
        folder.mkdir(parents=True)
        for rank, names in enumerate(ranks):
            values = b"".join(official_record(random) for _ in names)
            (folder / f"rank{rank}-keys.txt").write_text("".join(f"{name}\n" for name in names))
            (folder / f"rank{rank}-values.bin").write_bytes(values)


def official_record(random: np.random.Generator) -> bytes:
    """Seed, class indices and probabilities of one image."""
    logits = random.normal(size=30) * 3
    probability = np.exp(logits) / np.exp(logits).sum()
    index = np.argsort(-probability)[:OFFICIAL_TOPK]
    seed = struct.pack("<i", int(random.integers(0, 2**31)))
    return seed + index.astype("<i2").tobytes() + probability[index].astype("<f2").tobytes()


def expect_stores(expected: Expected, arrays: Arrays) -> None:
    """Keep the answer of the command for every store, every row as read, and the views
    made again.
    """
    from tinyvit.backbones.distill.store import SoftLabelStore, teacher_names

    expected["info"] = {}
    for path in sorted(Path("stores").iterdir()):
        found = json.loads(run("labels", "info", path, "--json"))
        expected["info"][path.name] = found if isinstance(found, list) else [found]
        for name in teacher_names(path):
            expect_labels(SoftLabelStore(path, name), expected, arrays)


def expect_labels(store: Any, expected: Expected, arrays: Arrays) -> None:
    """Keep the rows of one teacher as read."""
    from tinyvit.backbones.distill.rows import restore
    from tinyvit.backbones.distill.views import StoredViews
    from tinyvit.backbones.images import ImageFiles

    name, header = f"{store.path.name}/{store.name}", store.header
    images = np.repeat(np.arange(header.images), header.views)
    views = np.tile(np.arange(header.views), header.images)
    rows = store.rows(images, views)
    valid = store.valid_rows(rows)
    arrays[f"{name} rows"] = rows.view(np.uint8).reshape(len(rows), -1)
    arrays[f"{name} argmax"] = rows["argmax"]
    for tau in store.layout.temperatures[:3:2]:
        labels = restore(rows[valid], store.layout, tau)
        arrays[f"{name} index"] = labels.index.numpy()
        arrays[f"{name} log-probability at {tau:g}"] = labels.probability.log().numpy()
        arrays[f"{name} residual at {tau:g}"] = labels.residual.numpy()
    shown = StoredViews(store, ImageFiles(data_of(store.path)), 48)
    places = [(int(i), int(v)) for i, v, good in zip(images, views, valid, strict=True) if good]
    expected.setdefault("stores", {})[name] = {
        "store": store.path.name,
        "labels": store.name,
        "base_id": header.base_id,
        "store_id": header.store_id,
        "keys": list(store.manifest.names),
        "views": header.views,
        "temperatures": list(store.layout.temperatures),
        "unreadable": {str(image): reason for image, reason in store.invalid_images().items()},
        "valid": valid.tolist(),
        "pixels at 48": [digest(shown[place]["inputs"].numpy().tobytes()) for place in places],
    }


def data_of(store: Path) -> str:
    """Return the images that a store was made of."""
    return "pictures.zip" if store.name == "zipped" else "pictures"


def digest(data: bytes) -> str:
    """A short hash."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


# --- training -----------------------------------------------------------------


def train_students(commands: Expected, expected: Expected) -> None:
    """Two runs of six iterations: the checkpoint of the fourth, and what the whole run came to."""
    stores = {"distilled": "plain", "averaged": "mixed"}
    for name, store in stores.items():
        work = Path("runs", name)
        command = ["pretrain", f"configs/{name}.py", "--data", "pictures", "--labels", f"stores/{store}"]
        command += ["--work-dir", str(work), "--device", "cpu", "--json"]
        result = json.loads(run(*command))
        commands[f"run {name}"] = command
        expected.setdefault("runs", {})[name] = {
            "log": [json.loads(line) for line in (work / "train_log.jsonl").read_text().splitlines()],
            "parameters": result["metrics"]["parameters"],
            "store_id": result["metrics"]["store_id"],
        }
        (work / "checkpoints" / "iter_00000006.pth").unlink()
        for entry in work.iterdir():  # mmengine's log and copy of the config, which nothing reads
            if entry.name not in ("checkpoints", "student.safetensors", "train_log.jsonl", "result.json"):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def expect_recipes(expected: Expected) -> None:
    """Effective values of every config that inherits a shipped recipe by its name."""
    from tinyvit.backbones.distill.recipe import load_recipe

    expected["recipes"] = {path.name: load_recipe(path).binding() for path in sorted(Path("configs").glob("[!_]*.py"))}


def expect_accuracy(commands: Expected, expected: Expected) -> None:
    """Keep the accuracy of a classifier built from its file alone, and its fingerprint."""
    command = ["evaluate", MODEL, "--data", "pictures", "--weights", "teachers/first.safetensors"]
    command += ["--device", "cpu", "--work-dir", "made/evaluate", "--json"]
    metrics = json.loads(run(*command))["metrics"]
    commands["evaluate"] = command
    expected["evaluate"] = {key: metrics[key] for key in ("top1", "top5", "images", "unreadable", "model")}


# --- export, probe, speed -----------------------------------------------------


def export(commands: Expected, expected: Expected, arrays: Arrays) -> None:
    """A classifier of bytes with class names, and feature maps of normalised floats."""
    from tinyvit.export import OnnxModel

    Path("export").mkdir()
    Path("export/names.txt").write_text("".join(f"kind {i}\n" for i in range(CLASSES["first"])))
    start = ["export", "onnx", MODEL, "--weights", "teachers/first.safetensors", "--json", "--out"]
    made = {
        "classifier": [*start, "export/classifier.onnx", "--classes", "export/names.txt", "--input", "uint8"],
        "features": [*start, "export/features.onnx", "--features", "--out-indices", "1,2,3"],
    }
    for name, command in made.items():
        run(*command)
        commands[f"export {name}"] = command
        model = OnnxModel(f"export/{name}.onnx", threads=1)
        batch = arrays["bytes"] if name == "classifier" else arrays["batch"]
        for output, value in zip(model.output_names, model(batch), strict=True):
            arrays[f"onnx {name} {output}"] = value
        expected.setdefault("onnx", {})[name] = json.loads(json.dumps(model.card.to_dict()))
    command = ["export", "predict", "export/classifier.onnx", "pictures/lake/boat.png", "--topk", "3", "--json"]
    commands["predict classifier"] = command
    expected["predict classifier"] = json.loads(run(*command))


def probe(commands: Expected, expected: Expected) -> None:
    """A linear probe with its feature cache, on two classes of drawn images."""
    for part, count in (("train", 6), ("test", 4)):
        for at, (name, colour) in enumerate((("blue", (40, 40, 200)), ("red", (200, 40, 40)))):
            folder = Path("probe/pictures", part, name)
            folder.mkdir(parents=True)
            for index in range(count):
                image = Image.new("RGB", (32, 32), colour)
                ImageDraw.Draw(image).rectangle((index, 3 * at, index + 9, 12), fill=(20 * index, 90, 90))
                image.save(folder / f"{index}.png")
    command = ["probe", "linear", MODEL, "--data", "probe/pictures", "--weights", "teachers/first.safetensors"]
    command += ["--cache", "probe/features", "--threads", "1", "--device", "cpu", "--work-dir", "made/probe", "--json"]
    metrics = json.loads(run(*command))["metrics"]
    commands["probe"] = command
    kept = ("accuracy", "train_accuracy", "rows", "model", "weights", "pool", "preprocess", "c", "normalisation")
    expected["probe"] = {key: metrics[key] for key in kept} | {"torch": torch.__version__}


def bench(commands: Expected, expected: Expected) -> None:
    """A result of the speed harness with a reference, as ``--baseline --relative`` takes it."""
    os.environ |= {"PYTHONPATH": "bench", "PYTHONDONTWRITEBYTECODE": "1"}
    command = ["bench", "export/classifier.onnx", "small_network:build", "--against", "small_network:build"]
    command += ["--size", 96, "--threads", 1, "--rounds", 3, "--min-time", 0, "--no-peak", "--no-html", "--no-csv"]
    command = [str(part) for part in [*command, "--work-dir", "bench", "--json"]]
    document = json.loads(run(*command))
    commands["bench"] = command
    subjects, comparisons = document["metrics"]["subjects"], document["metrics"]["comparisons"]
    expected["bench"] = {
        "subjects": [subject["subject"] for subject in subjects],
        "compared": [[one["subject"], one["against"]] for one in comparisons],
        "samples": {one["label"]: [turn["samples"] for turn in one["rounds"]] for one in subjects},
    }


# --- detection ----------------------------------------------------------------


def draw_coco() -> None:
    """Rectangles whose colour is their class, in COCO's layout."""
    colours = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}
    for split, count in (("train2017", 4), ("val2017", 2)):
        folder = Path("detect/coco", split)
        folder.mkdir(parents=True)
        document: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 3 * i + 1, "name": name} for i, name in enumerate(colours)],
        }
        random = np.random.default_rng(count)
        for i in range(count):
            image = Image.new("RGB", (96 + 16 * (i % 2), 96), (110, 110, 110))
            x, y, w, h = (int(v) for v in random.integers((2, 2, 28, 28), (40, 40, 44, 44)))
            label = i % len(colours)
            ImageDraw.Draw(image).rectangle((x, y, x + w - 1, y + h - 1), fill=list(colours.values())[label])
            image.save(folder / f"{i:03d}.png")
            size = {"height": image.height, "width": image.width}
            document["images"].append({"id": i + 1, "file_name": f"{i:03d}.png", **size})
            box = {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            document["annotations"].append({"id": i + 1, "image_id": i + 1, "category_id": 3 * label + 1, **box})
        annotations = Path("detect/coco/annotations")
        annotations.mkdir(exist_ok=True)
        (annotations / f"instances_{split}.json").write_text(json.dumps(document) + "\n")


def write_detector_config() -> None:
    """A narrow RetinaNet, as a user keeps it who wrote a config out with the data in it."""
    from tinyvit.detection import load_config

    cfg = load_config("retinanet_tiny_vit_5m_fpn_1x_coco", data_root="detect/coco")
    arch = {key: tuple(value) for key, value in SMALL.items() if key != "img_size"}
    cfg.model.backbone.update(arch={**arch, "window_sizes": (7, 7, 7, 7)}, drop_path_rate=0.0)
    cfg.model.neck.update(in_channels=[8, 8, 12], out_channels=8)
    cfg.model.bbox_head.update(in_channels=8, feat_channels=8, stacked_convs=1)
    cfg.model.bbox_head.anchor_generator.octave_base_scale = 2
    cfg.model.test_cfg.max_per_img = 4
    cfg.optim_wrapper.clip_grad = {"max_norm": 10}
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    # load_config makes paths absolute; a config that is kept under version control has relative
    # ones.
    Path(DETECTOR).write_text(cfg.pretty_text.replace(f"{Path.cwd()}/", ""))


def detect(commands: Expected, expected: Expected) -> None:
    """A run's copy of its config, its checkpoint (not the file that names it by an absolute path),
    what it finds.
    """
    draw_coco()
    write_detector_config()
    command = ["detect", "train", DETECTOR, "--device", "cpu", "--img-size", "96", "--batch-size", "4"]
    command += ["--epochs", str(DETECTOR_EPOCHS), "--work-dir", "runs/detector", "--cfg-options"]
    command += ["auto_scale_lr.enable=False", "optim_wrapper.optimizer.lr=0.01"]
    command += [f"default_hooks.checkpoint.interval={DETECTOR_EPOCHS}", f"train_cfg.val_interval={DETECTOR_EPOCHS}"]
    run(*command)
    commands["detect train"] = command
    weights = ["--weights", f"runs/detector/epoch_{DETECTOR_EPOCHS}.pth"]
    command = ["detect", "test", DETECTOR, *weights, "--device", "cpu", "--work-dir", "made/test", "--json"]
    metrics = json.loads(run(*command))["metrics"]
    commands["detect test"] = command
    expected["detect test"] = {key: metrics[key] for key in ("bbox_mAP", "bbox_AR@100", "img_size", "img_size_from")}
    command = ["detect", "predict", DETECTOR, "detect/coco/val2017", *weights, "--score", "0.1"]
    command += ["--device", "cpu", "--work-dir", "made/predict"]
    run(*command)
    commands["detect predict"] = command
    document = json.loads(Path("made/predict/predictions.json").read_text())
    expected["detect predict"] = {"classes": document["classes"], "images": document["images"]}
    forget_the_folder(Path(f"runs/detector/epoch_{DETECTOR_EPOCHS}.pth"))
    for entry in Path("runs/detector").iterdir():
        if entry.name not in (f"epoch_{DETECTOR_EPOCHS}.pth", Path(DETECTOR).name):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def forget_the_folder(checkpoint: Path) -> None:
    """Make the one absolute path in mmengine's checkpoint, its own, relative; all else is saved as
    it was.
    """
    content = torch.load(checkpoint, weights_only=False)
    info = content["message_hub"]["runtime_info"]
    info["last_ckpt"] = str(Path(info["last_ckpt"]).relative_to(Path.cwd()))
    torch.save(content, checkpoint)


# --- all ----------------------------------------------------------------------


def make_all(out: Path) -> None:
    """Everything, into a new folder."""
    here = Path(__file__).resolve().parent
    out.mkdir(parents=True)
    os.chdir(out)
    for name in BY_HAND:
        Path(name).parent.mkdir(exist_ok=True)
        shutil.copy(here / "data" / name, name)
    torch.set_num_threads(1)
    commands: Expected = {}
    expected: Expected = {"commit": COMMIT, "commands": commands}
    arrays: Arrays = {}
    fixed_input(arrays)
    draw_pictures()
    zip_pictures()
    train_teachers(commands)
    make_stores(commands)
    expect_stores(expected, arrays)
    train_students(commands, expected)
    expect_weights(arrays)
    expect_recipes(expected)
    expect_accuracy(commands, expected)
    export(commands, expected, arrays)
    probe(commands, expected)
    bench(commands, expected)
    detect(commands, expected)
    shutil.rmtree("made")
    np.savez_compressed("expected.npz", **arrays)
    files = sorted(path for path in Path().rglob("*") if path.is_file())
    expected["files"] = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    Path("expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    here_bytes = str(Path.cwd()).encode()
    named = [str(path) for path in Path().rglob("*") if path.is_file() and here_bytes in path.read_bytes()]
    if named:
        raise RuntimeError(f"files that name this folder: {', '.join(named)}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    make_all(Path(sys.argv[1]))
