"""Training, evaluation and prediction: from Python, from the command line, and by mmdet's own
script.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tinyvit
from tinyvit.api.detection import report_size
from tinyvit.backbones import CheckFailedError, InputError, create_model
from tinyvit.detection import Predictor, draw_detections, evaluate, load_config, predict, set_schedule, train
from tinyvit.detection.config import input_size, trained_size
from tinyvit.detection.runtime import load_detector, read_detector

pytestmark = pytest.mark.filterwarnings("ignore")
RETINANET = "retinanet_tiny_vit_5m_fpn_1x_coco"
CONFIG_FOLDER = Path(__file__).parents[3] / "detection" / "configs"


@pytest.fixture
def learned(make_coco, small_config, tmp_path) -> dict:
    """A detector that was trained until it knows its eight images."""
    torch.manual_seed(0)
    root = make_coco(train=8, val=4)
    fast = {
        "auto_scale_lr.enable": False,
        "optim_wrapper.optimizer.lr": 3e-3,
        "optim_wrapper.clip_grad": {"max_norm": 10},
    }
    cfg = load_config(small_config, data_root=root, img_size=128, eval_on_train=True, overrides=fast)
    set_schedule(cfg, epochs=30, batch_size=4)
    cfg.train_cfg.val_interval = 30
    before = cfg.pretty_text
    run = train(cfg, tmp_path / "run", device="cpu")
    assert cfg.pretty_text == before
    return {"root": root, "cfg": cfg, "run": run}


def test_a_detector_learns_what_it_sees(learned, coco_metrics, tmp_path) -> None:
    run, cfg = learned["run"], learned["cfg"]
    assert run["init"] == "random"
    assert (run["iterations"], run["batch_size"], run["lr"]) == (60, 4, 3e-3)
    assert run["losses"]["last"] < 0.4 * run["losses"]["first"]
    assert run["metrics"]["bbox_mAP_50"] > 0.8

    metrics = evaluate(cfg, run["checkpoint"], tmp_path / "test", device="cpu")
    assert set(metrics) == {f"bbox_{name}" for name in coco_metrics}
    assert metrics == pytest.approx(run["metrics"])
    results = json.loads((tmp_path / "test" / "detections.bbox.json").read_text())
    assert {"image_id", "category_id", "bbox", "score"} <= set(results[0])

    picture = learned["root"] / "train2017" / "000.png"
    found = Predictor(cfg, run["checkpoint"])(np.asarray(Image.open(picture).convert("RGB")))
    document = json.loads((learned["root"] / "annotations/instances_train2017.json").read_text())
    truth = document["annotations"][0]
    assert found[0]["category"] == document["categories"][found[0]["label"]]["name"] == "red"
    assert np.abs(np.subtract(found[0]["bbox"], truth["bbox"])).max() < 6

    # The classes of a checkpoint and of the data must be the same.
    other = load_config(RETINANET, data_root=learned["root"])
    other.model = cfg.model
    for dataset in (other.test_dataloader.dataset, other.train_dataloader.dataset):
        dataset.metainfo.classes = ("red", "green", "pink")
    with pytest.raises(InputError, match=r"checkpoint .*epoch_30.pth are not the 3 classes of the data: 'blue' only"):
        evaluate(other, run["checkpoint"], tmp_path / "test")

    # A whole detector is a start too, and a perfect fit keeps what it knows.
    set_schedule(cfg, max_iters=1)
    cfg.optim_wrapper.optimizer.lr = 1e-9
    again = train(cfg, tmp_path / "again", weights=run["checkpoint"], device="cpu")
    assert again["init"].startswith("detector ")
    assert again["metrics"]["bbox_mAP_50"] > 0.8


def test_the_commands_train_resume_test_and_predict(
    make_coco, small_config, coco_metrics, tmp_path, capsys, exit_code
) -> None:
    root = make_coco()
    work, common = tmp_path / "work", ("--data-root", root, "--img-size", 96, "--device", "cpu")
    train_it = ("detect", "train", small_config, *common, "--work-dir", work)
    assert exit_code(*train_it, "--max-iters", 4, "--cfg-options", "default_hooks.checkpoint.interval=3") == 0
    assert (work / "iter_3.pth").is_file()  # an option stands above what the schedule derives, which is 2
    log = next(work.glob("*/*.log")).read_text()
    assert "base_lr: 1.0000e-04 lr: 1.2500e-05" in log  # in a run too short for a warm-up; 2 images, not 16
    first = json.loads((work / "result.json").read_text())
    assert first["metrics"]["iterations"] == 4
    assert first["metrics"]["mmcv_ops"]["kind"] in ("compiled", "torchvision")

    assert exit_code(*train_it, "--max-iters", 4) == 2  # a run is never overwritten
    assert "holds a run already" in capsys.readouterr().err
    assert exit_code(*train_it, "--max-iters", 6, "--resume", "--json") == 0
    capsys.readouterr()
    second = json.loads((work / "result.json").read_text())
    assert (second["metrics"]["iterations"], second["metrics"]["init"]) == (6, "resumed")
    state = torch.load(work / "iter_6.pth", weights_only=False)
    assert state["message_hub"]["log_scalars"]["train/loss"]._count_history.sum() == 6  # the curve continues
    steps = {int(value["step"]) for value in state["optimizer"]["state"].values()}
    assert steps == {6}

    tested = tmp_path / "tested"
    arguments = (
        "detect",
        "test",
        small_config,
        "--data-root",
        root,
        "--device",
        "cpu",
        "--weights",
        work / "iter_6.pth",
        "--work-dir",
        tested,
        "--json",
    )
    assert exit_code(*arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tested / "result.json").read_text())
    assert {f"bbox_{name}" for name in coco_metrics} <= set(printed["metrics"])
    assert printed["metrics"]["img_size"] == [96, 96]
    assert printed["metrics"]["img_size_from"] == f"the training's config {work / 'small.py'}"

    (root / "val2017" / "bad.jpg").write_bytes(b"no image")
    Image.new("RGB", (2000, 3)).save(root / "val2017" / "wide.png")  # less than a pixel high at 96 px
    shown = tmp_path / "shown"
    arguments = ("detect", "predict", small_config, root / "val2017", "--weights", work / "iter_6.pth", "--score", 0.0)
    assert exit_code(*arguments, "--work-dir", shown, "--device", "cpu") == 1  # all others are done
    err = capsys.readouterr().err
    assert f"image size 96 x 96 px, from the training's config {work / 'small.py'}" in err
    assert f"not read: {root / 'val2017' / 'bad.jpg'}: ValueError: not an image of a known format" in err
    assert "2 of 6 images could not be read; repair or remove them" in err.splitlines()[-1]
    document = json.loads((shown / "predictions.json").read_text())
    assert document["classes"] == ["red", "green", "blue"]
    assert document["deployed"]["model"] == "TinyViT"
    assert document["deployed"]["difference"] < 1e-3
    assert len(document["images"]) == 4
    assert [Path(file).name for file in document["unreadable"]] == ["bad.jpg", "wide.png"]
    for entry in document["images"]:
        assert Image.open(entry["picture"]).size == (entry["width"], entry["height"])

    # Settings among the images, and the same from Python.
    scale, image = "test_dataloader.dataset.pipeline.1.scale", root / "val2017" / "000.png"
    again = ("detect", "predict", small_config, image, "--weights", work / "iter_6.pth", "--score", 0.0)
    settings = ("--cfg-options", "test_dataloader.batch_size=1", f"{scale}=(64, 64)")
    assert exit_code(*again, *settings, "--work-dir", tmp_path / "settings", "--device", "cpu") == 0
    printed = capsys.readouterr()
    assert "image size 64 x 64 px, from --cfg-options" in printed.err
    assert printed.err.splitlines()[-1].startswith("next: tinyvit detect test ")
    found = tinyvit.detect_predict(
        small_config,
        image,
        work / "iter_6.pth",
        score=0.0,
        cfg_options={scale: (64, 64)},
        device="cpu",
        work_dir=tmp_path / "called",
    )
    assert (found["img_size"], found["work_dir"]) == ([64, 64], str(tmp_path / "called"))
    typed = json.loads((tmp_path / "settings" / "predictions.json").read_text())
    assert found["images"][0]["detections"] == typed["images"][0]["detections"]
    with pytest.raises(InputError, match="give at least one image"):
        tinyvit.detect_predict(small_config, [], work / "iter_6.pth", work_dir=tmp_path / "called", device="cpu")


def test_the_size_of_the_training_is_the_size_of_its_tests(
    make_coco, small_config, tmp_path, capsys, exit_code
) -> None:
    root, work = make_coco(), tmp_path / "work"
    cfg = load_config(small_config, data_root=root, img_size=64)
    set_schedule(cfg, max_iters=1)
    weights = train(cfg, work, device="cpu")["checkpoint"]
    assert trained_size(small_config, weights) == ((64, 64), work / "small.py")
    assert trained_size(work / "small.py", weights) is None  # it is the config already
    assert trained_size(RETINANET, weights) is None
    assert trained_size(small_config, tmp_path / "alone.pth") is None
    assert input_size(load_config(small_config, img_size=(64, 64))) == (64, 64)
    assert input_size(load_config(small_config)) == (1333, 800)

    tuned = load_config(small_config, img_size=96, overrides={"test_dataloader.dataset.pipeline.1.scale": (128, 64)})
    assert report_size(tuned, 96, "--img-size") == {"img_size": [128, 64], "img_size_from": "--cfg-options"}

    # --img-size takes precedence, and a test in the training's folder does not become the training.
    test_it = ("detect", "test", small_config, "--data-root", root, "--weights", weights, "--device", "cpu")
    assert exit_code(*test_it, "--img-size", 96, "--work-dir", work) == 0
    assert "image size 96 x 96 px, from --img-size" in capsys.readouterr().err
    assert json.loads((work / "result.json").read_text())["metrics"]["img_size"] == [96, 96]
    assert trained_size(small_config, weights) == ((64, 64), work / "small.py")

    (work / "small.py").write_text("model = dict(\n")
    assert exit_code(*test_it, "--work-dir", work) == 2
    assert f"config {work / 'small.py'} cannot be read" in capsys.readouterr().err.splitlines()[-1]


def seeded_config(small_config: Path, root: Path, length: dict[str, int], workers: int):
    """A config whose model and data draw random numbers."""
    cfg = load_config(small_config, data_root=root, img_size=96, overrides={"optim_wrapper.optimizer.lr": 1e-3})
    cfg.model.backbone.drop_path_rate = 0.3
    cfg.pop("randomness")
    cfg.train_dataloader.num_workers = workers
    cfg.train_dataloader.persistent_workers = bool(workers)
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    set_schedule(cfg, **length)
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.checkpoint.interval = 2
    return cfg


def curve(work_dir: Path) -> list[float]:
    """The loss of each iteration, of the last run in a folder."""
    state = torch.load((work_dir / "last_checkpoint").read_text(), weights_only=False)
    return state["message_hub"]["log_scalars"]["train/loss"]._log_history.tolist()


def test_a_seed_is_recorded_and_fixes_the_losses(make_coco, small_config, tmp_path) -> None:
    cfg = seeded_config(small_config, make_coco(), {"max_iters": 2}, 0)
    assert train(cfg, tmp_path / "default", device="cpu")["seed"] == 0
    assert train(cfg, tmp_path / "zero", seed=0, device="cpu")["seed"] == 0
    cfg.randomness = {"seed": 1}
    assert train(cfg, tmp_path / "one", device="cpu")["seed"] == 1
    assert curve(tmp_path / "default") == curve(tmp_path / "zero")
    assert curve(tmp_path / "one") != curve(tmp_path / "zero")


@pytest.mark.parametrize(("length", "workers"), [({"epochs": 3}, 0), ({"epochs": 3}, 1), ({"max_iters": 3}, 0)])
def test_a_resumed_run_is_the_undisturbed_one(make_coco, small_config, tmp_path, length, workers: int) -> None:
    cfg = seeded_config(small_config, make_coco(), length, workers)
    whole = train(cfg, tmp_path / "whole", seed=3, device="cpu")
    if workers:  # the config that a training writes is one to train with, by mmdet's own script too
        cfg = load_config(tmp_path / "whole" / "small.py")
        cfg.train_dataloader.persistent_workers = True
    # As a kill after the second epoch, or iteration, leaves it.
    (tmp_path / "killed").mkdir()
    first = tmp_path / "killed" / ("epoch_2.pth" if "epochs" in length else "iter_2.pth")
    shutil.copy(tmp_path / "whole" / first.name, first)
    (tmp_path / "killed" / "last_checkpoint").write_text(str(first))
    with pytest.raises(InputError, match=r"--seed is 4, but .*_2.pth is of a run with seed 3"):
        train(cfg, tmp_path / "killed", resume=True, seed=4, device="cpu")
    resumed = train(cfg, tmp_path / "killed", resume=True, device="cpu")
    assert resumed["seed"] == 3
    assert resumed["iterations"] == whole["iterations"]
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    one, other = (torch.load(run["checkpoint"], weights_only=False)["state_dict"] for run in (whole, resumed))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_a_backbones_weights_are_a_start(make_coco, small_config, tmp_path) -> None:
    from tinyvit.detection import TinyViT

    root = make_coco()
    cfg = load_config(small_config, data_root=root, img_size=96)
    set_schedule(cfg, max_iters=1)
    # Statistics tell a loaded backbone from a random one even after a step.
    backbone = TinyViT(cfg.model.backbone.arch)
    backbone.patch_embed.conv1.bn.running_mean.fill_(3.0)
    torch.save(backbone.state_dict(), tmp_path / "backbone.pth")
    run = train(cfg, tmp_path / "run", weights=tmp_path / "backbone.pth", device="cpu")
    assert run["init"].startswith("backbone ")
    state = torch.load(run["checkpoint"], weights_only=False)["state_dict"]
    assert state["backbone.patch_embed.conv1.bn.running_mean"].min() > 2.0
    with pytest.raises(InputError, match="holds no detector"):
        evaluate(cfg, tmp_path / "backbone.pth", tmp_path / "test")


@pytest.fixture
def detector(small_config):
    """A small detector with random weights, and its state dict."""
    from mmdet.registry import MODELS

    model = MODELS.build(load_config(small_config).model)
    return model, {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("start", ["", "module.", "_orig_mod.", "model.detector.", "ema_model.module."])
@pytest.mark.parametrize("nest", [(), ("state_dict",), ("state_dict_ema",), ("module", "x")])
def test_a_detector_is_found_at_any_place(start, nest, detector, tmp_path) -> None:
    model, state = detector
    content: dict = {f"{start}{name}": value for name, value in state.items()} | {"n_averaged": torch.tensor(3)}
    for key in reversed(nest):
        content = {key: content, "meta": {"dataset_meta": {"classes": ("red", "blue")}}}
    torch.save(content, tmp_path / "w.pth")
    checkpoint, classes = read_detector(tmp_path / "w.pth")
    assert classes == (("red", "blue") if nest else None)
    for parameter in model.parameters():
        parameter.data.zero_()
    load_detector(model, checkpoint)
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)


def test_the_average_of_a_detector_by_its_hook(detector, tmp_path) -> None:
    """mmengine and mmcv 1 write the average under the usual names, and the plain weights beside."""
    model, state = detector
    plain = {name: value + 1 for name, value in state.items()}
    mmengine = {
        "message_hub": {},
        "state_dict": state,
        "ema_state_dict": {"steps": torch.tensor(1)} | {f"module.{name}": value for name, value in plain.items()},
    }
    mmcv = {"state_dict": state | {f"ema_{name.replace('.', '_')}": value for name, value in plain.items()}}
    for content, key in ((mmengine, "ema_state_dict"), (mmcv, "ema_")):
        torch.save(content, tmp_path / "w.pth")
        load_detector(model, read_detector(tmp_path / "w.pth")[0])
        torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
        load_detector(model, read_detector(tmp_path / "w.pth")[0], weights_key=key)
        torch.testing.assert_close(model.state_dict(), plain, rtol=0, atol=0)


def test_a_detector_in_part(detector, tmp_path) -> None:
    model, state = detector
    name = next(name for name in state if name.startswith("bbox_head") and state[name].ndim == 1)
    cases = (
        (state | {name: torch.ones(2)}, f"1 parameters have another shape ({name})"),
        ({key: value for key, value in state.items() if key != name}, f"1 parameters are missing ({name})"),
        (state | {"neck.x": torch.ones(2)}, "1 parameters are unknown (neck.x)"),
    )
    for changed, message in cases:
        torch.save({"state_dict": changed}, tmp_path / "w.pth")
        checkpoint = read_detector(tmp_path / "w.pth")[0]
        with pytest.raises(InputError, match=re.escape(message)):
            load_detector(model, checkpoint)
        assert load_detector(model, checkpoint, partial=True).keys() == {
            key for key in state if key in changed and changed[key].shape == state[key].shape
        }
    torch.save({"state_dict": state | {name: torch.full_like(state[name], torch.nan)}}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=rf"{name} has \d+ of \d+ values that are not finite"):
        load_detector(model, read_detector(tmp_path / "w.pth")[0], partial=True)


def test_load_from_and_resume_of_a_config_are_checked(detector, make_coco, small_config, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # where Evil would leave its file
    cfg = load_config(small_config, data_root=make_coco(), img_size=96)
    set_schedule(cfg, max_iters=1)
    state = detector[1]
    state["backbone.patch_embed.conv1.bn.running_mean"].fill_(3.0)
    head = next(name for name in state if name.startswith("bbox_head") and name.endswith("cls.weight"))
    torch.save({"state_dict": state | {head: state[head][:1]}}, tmp_path / "w.pth")
    cfg.load_from = str(tmp_path / "w.pth")
    run = train(cfg, tmp_path / "run", device="cpu")
    assert run["init"] == f"detector {tmp_path / 'w.pth'}"
    trained = torch.load(run["checkpoint"], weights_only=False)
    assert trained["state_dict"]["backbone.patch_embed.conv1.bn.running_mean"].min() > 2.0

    neck = next(name for name in state if name.startswith("neck"))
    state[neck].fill_(torch.nan)
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="not finite"):
        train(cfg, tmp_path / "other", device="cpu")
    cfg.load_from = "s3://bucket/w.pth"
    with pytest.raises(InputError, match="is not the https address of a checkpoint; download it"):
        train(cfg, tmp_path / "other", device="cpu")
    cfg.load_from, cfg.resume = None, True
    with pytest.raises(InputError, match="the config sets resume; use --resume"):
        train(cfg, tmp_path / "other", device="cpu")

    cfg.resume = False
    trained["state_dict"][neck].fill_(torch.inf)
    torch.save(trained, run["checkpoint"])
    with pytest.raises(InputError, match=f"{neck} has .* not finite"):
        train(cfg, tmp_path / "run", resume=True, device="cpu")
    torch.save(trained | {"x": Evil()}, run["checkpoint"])
    with pytest.raises(InputError, match="nothing of it was run"):
        train(cfg, tmp_path / "run", resume=True, device="cpu")
    assert not (tmp_path / "ran").exists()


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_bad_input_is_one_sentence_and_exit_code_2(make_coco, small_config, tmp_path, capsys, exit_code) -> None:
    root = make_coco()
    torch.save(create_model("tiny_vit_21m_224", num_classes=2).state_dict(), tmp_path / "other.pth")
    torch.save({"state_dict": {"backbone.a": torch.zeros(1), "neck.a": torch.zeros(1)}}, tmp_path / "half.pth")
    init = "model.neck.init_cfg"
    flip = "train_dataloader.dataset.pipeline.3.prob"
    cases = [
        (("train", "no_such_config", "--data-root", root), "unknown config 'no_such_config'"),
        (("train", small_config, "--data-root", tmp_path / "absent"), "absent is not a folder"),
        (("train", small_config, "--data-root", root, "--classes-from", "config"), "the 80 classes of config"),
        (
            ("train", small_config, "--data-root", root, "--resume", "--work-dir", tmp_path / "w"),
            "holds no checkpoint",
        ),
        (("train", small_config, "--data-root", root, "--resume"), "--resume needs --work-dir"),
        (
            ("train", small_config, "--data-root", root, "--limit-images", 0),
            "--limit-images is 0; it must be at least 1",
        ),
        (
            ("predict", small_config, root / "val2017", "--weights", tmp_path / "half.pth", "--score", 7),
            "--score is 7; it must be from 0 to 1",
        ),
        (
            ("predict", small_config, root / "val2017", "--weights", tmp_path / "half.pth", "--score", "nan"),
            "--score is nan; it must be from 0 to 1",
        ),
        (
            ("train", small_config, "--data-root", root, "--amp", "--cfg-options", "optim_wrapper.dtype=float16"),
            "optim_wrapper.dtype is float16; on a CPU use bfloat16",
        ),
        (("train", small_config, "--data-root", root, "--launcher", "slurm"), "SLURM_PROCID is not set"),
        (("train", small_config, "--data-root", root, "--lr", "nan"), "--lr is nan; it must be a positive number"),
        (("train", small_config, "--data-root", root, "--workers", -1), "--workers is -1; it must be 0 or more"),
        (
            (
                "train",
                small_config,
                "--data-root",
                root,
                "--cfg-options",
                f"{init}={{'type': 'Pretrained', 'checkpoint': 'https://weights.invalid/a.pth'}}",
            ),
            "weights that the config names cannot be downloaded",
        ),
        (("train", small_config, "--data-root", root, "--seed", -1), "--seed is -1; it must be a whole number from 0"),
        (
            ("train", small_config, "--data-root", root, "--weights", tmp_path / "other.pth"),
            "checkpoint of another variant?",
        ),
        (("train", small_config, "--data-root", root, "--cfg-options", "a=1", "b"), "'b' must be KEY=VALUE"),
        (("train", small_config, "--data-root", root, "--cfg-options", f"{flip}=much"), "the config cannot be built"),
        (("test", small_config, "--data-root", root, "--weights", tmp_path / "none.pth"), "none.pth does not exist"),
        (
            ("test", small_config, "--data-root", root, "--weights", tmp_path / "half.pth"),
            "does not fit: none of its 2",
        ),
        (
            ("predict", small_config, tmp_path / "none.jpg", "--weights", tmp_path / "half.pth"),
            "none.jpg does not exist",
        ),
    ]
    for arguments, message in cases:
        assert exit_code("detect", *arguments, "--device", "cpu") == 2, arguments
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("tinyvit: "), arguments
        assert message in error, arguments


def test_boxes_that_cannot_be_trained_on_are_told_and_recorded(
    make_coco, small_config, tmp_path, capsys, exit_code
) -> None:
    root = make_coco()
    path = root / "annotations/instances_train2017.json"
    document = json.loads(path.read_text())
    document["annotations"][0]["bbox"] = [500, 0, 20, 20]
    document["annotations"][1]["bbox"] = [5, 5, 0, 20]
    path.write_text(json.dumps(document))
    arguments = ("detect", "train", small_config, "--data-root", root, "--img-size", 96, "--max-iters", 1)
    assert exit_code(*arguments, "--device", "cpu", "--work-dir", tmp_path / "run", "--json") == 0
    out = capsys.readouterr()
    boxes = json.loads(out.out)["metrics"]["boxes"]
    assert (boxes["total"], boxes["unusable"], boxes["trainable"]) == (12, 2, 10)
    assert boxes["left_out"] == {"outside": 1, "no area": 1}
    assert f"2 of 12 boxes in {path} are not trained on: 1 outside their image, 1 without area" in out.err

    for ann in document["annotations"]:
        ann["bbox"] = [5, 5, 0, 20]
    path.write_text(json.dumps(document))
    assert exit_code(*arguments, "--device", "cpu", "--work-dir", tmp_path / "none") == 2
    assert f"{path} has no box to train on" in capsys.readouterr().err.splitlines()[-1]


def test_a_damaged_annotation_file_of_the_config_itself_is_named(make_coco, small_config, tmp_path) -> None:
    root = make_coco()
    cfg = load_config(small_config, data_root=root)
    path = root / "annotations/instances_val2017.json"
    document = json.loads(path.read_text())
    document["annotations"][0]["bbox"] = [1, 2, 3]
    path.write_text(json.dumps(document))
    torch.save({"state_dict": {"backbone.a": torch.zeros(1), "neck.a": torch.zeros(1)}}, tmp_path / "some.pth")
    for run in (lambda: train(cfg, tmp_path / "a"), lambda: evaluate(cfg, tmp_path / "some.pth", tmp_path / "b")):
        with pytest.raises(InputError, match=r"instances_val2017.json: 'bbox' of annotation 1 is \[1, 2, 3\]"):
            run()


def test_a_loss_that_is_no_number_ends_the_run(make_coco, small_config, tmp_path) -> None:
    cfg = load_config(small_config, data_root=make_coco(), img_size=96)
    cfg.auto_scale_lr.enable = False
    cfg.optim_wrapper.optimizer = {"type": "SGD", "lr": 1e30, "weight_decay": 0.0}
    cfg.param_scheduler = [{"type": "ConstantLR", "factor": 1.0}]
    set_schedule(cfg, max_iters=5)
    with pytest.raises(CheckFailedError, match=r"stopped at iteration \d: loss"):
        train(cfg, tmp_path / "run", device="cpu")


def test_a_training_picture_that_cannot_be_read_is_named(make_coco, small_config, tmp_path) -> None:
    root = make_coco()
    damaged = sorted((root / "train2017").iterdir())[0]
    damaged.write_bytes(b"xx")
    cfg = load_config(small_config, data_root=root, img_size=96)
    cfg.train_dataloader.num_workers = 1  # whose error comes as text
    set_schedule(cfg, epochs=1)
    with pytest.raises(InputError, match=damaged.name):
        train(cfg, tmp_path / "run", device="cpu")


def test_a_test_picture_that_cannot_be_read_is_named(make_coco, small_config, tmp_path) -> None:
    root = make_coco()
    cfg = load_config(small_config, data_root=root, img_size=96)
    set_schedule(cfg, max_iters=1)
    run = train(cfg, tmp_path / "run", device="cpu")
    damaged = sorted((root / "val2017").iterdir())[1]
    whole = damaged.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"<html></html>", b"\0\0\0\x18ftypheic\0\0\0\0heicmif1"):
        damaged.write_bytes(content)
        with pytest.raises(InputError, match=rf"^image .*{damaged.name} cannot be read; repair it, or remove it"):
            evaluate(cfg, run["checkpoint"], tmp_path / "test", device="cpu")
        with pytest.raises(InputError, match=rf"^image .*{damaged.name} cannot be read; repair it, or remove it"):
            train(cfg, tmp_path / "other", device="cpu")
        shutil.rmtree(tmp_path / "other", ignore_errors=True)


def test_a_folder_without_validation_data_can_be_trained_on(make_coco, small_config, tmp_path) -> None:
    root = make_coco(val=0)
    cfg = load_config(small_config, data_root=root, img_size=96)
    set_schedule(cfg, max_iters=1)
    assert train(cfg, tmp_path / "run", device="cpu")["metrics"] == {}
    with pytest.raises(InputError, match="no test data"):
        evaluate(cfg, tmp_path / "any.pth", tmp_path / "test")


@pytest.mark.slow
def test_mmdets_own_script_trains_the_shipped_config(make_coco, tmp_path) -> None:
    """Nothing but the config's custom_imports brings tinyvit in."""
    import mmdet

    root = make_coco(train=2, val=1)
    classes = "('red', 'green', 'blue')"
    folder, val = "train_dataloader.dataset", "val_dataloader.dataset"
    options = [
        f"{folder}.data_root={root}/",
        f"{folder}.metainfo.classes={classes}",
        f"{folder}.pipeline.2.scale=(64, 64)",
        f"{val}.data_root={root}/",
        f"{val}.metainfo.classes={classes}",
        f"{val}.pipeline.1.scale=(64, 64)",
        f"val_evaluator.ann_file={root}/annotations/instances_val2017.json",
        "model.bbox_head.num_classes=3",
        "train_cfg.max_epochs=1",
        "train_dataloader.num_workers=0",
        "train_dataloader.persistent_workers=False",
        "val_dataloader.num_workers=0",
        "val_dataloader.persistent_workers=False",
    ]
    script = Path(mmdet.__file__).parent / ".mim" / "tools" / "train.py"
    work = tmp_path / "work"
    command = [sys.executable, script, CONFIG_FOLDER / f"{RETINANET}.py", "--work-dir", work, "--cfg-options", *options]
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "coco/bbox_mAP: " in done.stdout + done.stderr
    state = torch.load(work / "epoch_1.pth", weights_only=False)
    assert any(name.startswith("backbone.stages.3.") for name in state["state_dict"])


def test_pictures_show_boxes_and_masks() -> None:
    from pycocotools import mask as coder

    plain = Image.new("RGB", (120, 80), (10, 10, 10))
    shape = np.zeros((80, 120), dtype=np.uint8, order="F")
    shape[30:60, 20:90] = 1
    code = coder.encode(shape)
    segmentation = {"size": code["size"], "counts": code["counts"].decode()}
    box = {"bbox": [20, 30, 70, 30], "score": 0.9, "label": 0, "category": "thing", "segmentation": segmentation}
    drawn = np.asarray(draw_detections(plain, [box], colours=[(250, 0, 0)]))
    assert drawn.shape == (80, 120, 3)
    assert tuple(drawn[30, 50]) == (250, 0, 0)  # the frame
    assert 60 < drawn[45, 50, 0] < 200  # the tint
    assert tuple(drawn[70, 110]) == (10, 10, 10)
    assert np.array_equal(np.asarray(plain)[45, 50], (10, 10, 10))  # the original is unchanged


def test_predict_on_real_photographs(test_data, tmp_path) -> None:
    from tinyvit.detection.runtime import import_mmdet

    import_mmdet()
    from mmdet.registry import MODELS

    cfg = load_config("mask-rcnn_tiny_vit_5m_fpn_1x_coco", data_root=test_data / "coco-mini", img_size=224)
    cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)
    torch.manual_seed(0)
    torch.save({"state_dict": MODELS.build(cfg.model).state_dict()}, tmp_path / "random.pth")
    photographs = sorted((test_data / "coco-mini" / "val2017").glob("*.jpg"))[:2]
    document = predict(cfg, tmp_path / "random.pth", photographs, tmp_path / "shown", score_threshold=0.0)
    assert [len(entry["detections"]) for entry in document["images"]] == [5, 5]
    first = document["images"][0]["detections"][0]
    assert first["category"] in document["classes"]
    assert first["segmentation"]["size"] == [document["images"][0]["height"], document["images"][0]["width"]]


def test_an_operator_that_asserts_is_named_with_its_condition() -> None:
    from tinyvit.detection.engine.run import _input_named

    ops = pytest.importorskip("mmcv.ops")
    conv = ops.MaskedConv2d(2, 3, 3)
    with (
        pytest.raises(
            InputError, match=r"operator masked_conv rejects .*features\.size\(0\) == 1` fails.*batch_size=1"
        ),
        _input_named(),
    ):
        conv(torch.zeros(2, 2, 5, 5), torch.ones(1, 5, 5))
    with pytest.raises(AssertionError, match="mine"), _input_named():
        raise AssertionError("mine")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("model.neck.type=NoSuchNeck", "the config cannot be built: KeyError"),
        ("model.type=NoSuch", "the config cannot be built: KeyError"),
        ("model.backbone=1", "the config cannot be built: TypeError"),
        ("model.neck.end_level=9", "the config cannot be built: AssertionError at `"),
        ("model.neck.out_channels=0", "model.neck (FPN) cannot run: "),
        ("model.bbox_head=None", "the config cannot be built: "),
        ("model.data_preprocessor.mean=[0,0]", "the config cannot be built: AssertionError"),
        ("test_dataloader.dataset.pipeline=[]", "the config cannot be built: IndexError"),
        ("model.bbox_head.num_classes=3", "num_classes=3, but "),
    ],
)
def test_a_config_that_cannot_be_built_is_a_sentence_in_predict(
    option: str, said: str, detector, small_config, tmp_path, run_cli
) -> None:
    classes = tuple(f"class {number}" for number in range(80))
    torch.save({"state_dict": detector[1], "meta": {"dataset_meta": {"classes": classes}}}, tmp_path / "w.pth")
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    predict = ("detect", "predict", small_config, tmp_path / "a.png", "--weights", tmp_path / "w.pth", "--img-size", 64)
    code, out, err = run_cli(*predict, "--device", "cpu", "--work-dir", tmp_path / "work", "--cfg-options", option)
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("tinyvit: ")


def test_an_optimiser_that_does_not_exist_is_a_sentence(make_coco, small_config, run_cli, tmp_path) -> None:
    train = ("detect", "train", small_config, "--data-root", make_coco(), "--max-iters", 1, "--device", "cpu")
    option = "optim_wrapper.optimizer.type=Nope"
    code, out, err = run_cli(*train, "--work-dir", tmp_path / "w", "--cfg-options", option)
    assert (code, out) == (2, "")
    assert "cannot be built" in err.splitlines()[-1]


def test_a_link_that_leads_nowhere_does_not_stop_the_others(learned, tmp_path, run_cli) -> None:
    (tmp_path / "links").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "links/a.png")
    (tmp_path / "links/b.png").symlink_to(tmp_path / "nowhere.png")
    config, weights = next(Path(learned["run"]["checkpoint"]).parent.glob("*.py")), learned["run"]["checkpoint"]
    code, _, err = run_cli("detect", "predict", config, tmp_path / "links", "--weights", weights, "--device", "cpu")
    assert code == 1
    assert "1 of 2 images could not be read" in err.splitlines()[-1]
