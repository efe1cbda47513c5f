"""Training, testing and predicting print sentences and bars; mmengine's log is a file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tinyvit.core import console
from tinyvit.core.errors import InputError
from tinyvit.detection import load_config, set_schedule, train
from tinyvit.detection.show.samples import draw_samples

pytestmark = pytest.mark.filterwarnings("ignore")
#: Parts of mmengine's log, and of the prints of pycocotools.
_RAW = re.compile(r"mmengine|creating index|Epoch\((train|val|test)\)|deployed|\{'")


@pytest.fixture
def trained(make_coco, small_config, tmp_path) -> dict:
    """A folder of data and a detector after a few iterations."""
    root = make_coco()
    cfg = load_config(small_config, data_root=root, img_size=96)
    notes = set_schedule(cfg, max_iters=4, batch_size=4)
    return {"root": root, **train(cfg, tmp_path / "run", device="cpu", notes=notes)}


def test_a_training_prints_its_plan_and_validations(
    make_coco, small_config, tmp_path, run_cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_LINES", 0.0)
    command = ("detect", "train", small_config, "--data-root", make_coco(), "--img-size", 96, "--epochs", 2)
    more = ("--batch-size", 4, "--lr", 3e-3, "--workers", 0, "--seed", 5, "--device", "cpu")
    code, out, err = run_cli(*command, *more, "--work-dir", tmp_path / "run")
    assert code == 0
    for line in (
        "detector RetinaNet on tinyvit.TinyViT: 0.15 M parameters",
        "start    random weights; give trained ones with --weights FILE",
        "data     8 images with 12 boxes; validate on 4 images",
        "plan     4 iterations of 4 images = 2 epochs; fp32 on cpu; seed 5",
        "rates    lr 0.00075 (0.003 for 16 images)",
        "         warm-up of 1000 iterations left out: the run has 4",
    ):
        assert line in err.splitlines(), line
    assert re.search(r"^train: 3/4 iterations, .* left, loss \d\.\d{3}, epoch 2/2$", err, re.MULTILINE)
    assert re.search(r"^validate: 4/4 images, .* images/s", err, re.MULTILINE)
    assert len(re.findall(r"^validate epoch [12]: bbox_mAP \d\.\d{4}, bbox_mAP_50 ", err, re.MULTILINE)) == 2
    assert not _RAW.search(out + err), _RAW.search(out + err)

    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    log = Path(metrics["log"]).read_text()
    assert "Epoch(train)" in log
    assert metrics["best"]["metric"] == "bbox_mAP"
    assert metrics["best"]["value"] == max(json.loads(line)["coco/bbox_mAP"] for line in _validations(metrics["log"]))
    assert Path(metrics["best"]["checkpoint"]).is_file()
    for line in (f"checkpoint: {metrics['checkpoint']}", f"log: {metrics['log']}", "loss "):
        assert line in out
    assert f"detect predict {metrics['best']['checkpoint']}" in err.splitlines()[-1]

    # Curves and images for the page.
    entries = [json.loads(line) for line in Path(metrics["curve"]).read_text().splitlines()]
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    assert len(losses) == 4
    assert losses[0] == pytest.approx(metrics["losses"]["first"], abs=1e-4)
    assert [entry["iter"] for entry in entries if "val_bbox_mAP" in entry] == [2, 4]
    assert f"page: {tmp_path / 'run' / 'report.html'}" in out.splitlines()
    page = (tmp_path / "run" / "report.html").read_text()
    assert len(metrics["samples"]) == 4
    assert page.count("data:image/jpeg;base64,") == 8


def test_samples_show_the_boxes_of_annotations_and_detections(make_coco, tmp_path) -> None:
    root = make_coco()
    data = load_config("retinanet_tiny_vit_5m_fpn_1x_coco", data_root=root).val_dataloader
    assert draw_samples(data, tmp_path) == []  # without detections
    document = json.loads((root / "annotations/instances_val2017.json").read_text())
    first = document["annotations"][0]
    scored = [{**first, "score": 0.9}, {**first, "bbox": [60, 60, 20, 20], "score": 0.1}]
    (tmp_path / "detections.bbox.json").write_text(json.dumps(scored))
    samples = draw_samples(data, tmp_path)
    assert [Path(one["file"]).name for one in samples] == [entry["file_name"] for entry in document["images"]]
    plain, truth, found = (
        np.asarray(Image.open(path).convert("RGB"), int)
        for path in (samples[0]["file"], samples[0]["truth"], samples[0]["found"])
    )
    x, y = (int(value) for value in first["bbox"][:2])
    assert np.abs(truth - plain)[y : y + 40, x : x + 2].max() > 40  # the frame
    assert np.abs(found - plain)[60:80, 78:82].max() < 90  # a score below 0.3 is not drawn
    assert draw_samples(None, tmp_path) == []


def _validations(log: str) -> list[str]:
    return [line for line in (Path(log).parent / "vis_data" / "scalars.json").read_text().splitlines() if "mAP" in line]


def test_an_early_checkpoint_that_finds_nothing_is_a_sentence(trained, small_config, tmp_path, run_cli) -> None:
    common = (small_config, "--weights", trained["checkpoint"], "--device", "cpu", "--work-dir", tmp_path / "done")
    settings = ("--cfg-options", "model.test_cfg.score_thr=0.99")
    code, out, err = run_cli("detect", "test", *common, "--data-root", trained["root"], *settings)
    assert code == 0
    assert "nothing was detected in 4 images, so the numbers of bbox are 0; this is usual in the first epochs" in err
    assert not _RAW.search(out + err), _RAW.search(out + err)
    assert "bbox_mAP                 0.0000" in out.splitlines()
    assert "bbox_mAP_l               no object of this size" in out.splitlines()

    code, out, _ = run_cli("detect", "predict", *common, trained["root"] / "val2017", *settings)
    assert code == 0
    assert "0 detections in 4 images, score 0.3 or higher" in out.splitlines()
    assert "the detector finds nothing at any score; it may need a longer training" in out.splitlines()


def test_predict_has_a_line_per_image_and_no_internals(trained, small_config, tmp_path, run_cli) -> None:
    images, done = trained["root"] / "train2017", tmp_path / "done"
    common = ("detect", "predict", small_config, images, "--weights", trained["checkpoint"], "--device", "cpu")
    loose = ("--cfg-options", "model.test_cfg.score_thr=0.001", "--work-dir", done)
    code, out, err = run_cli(*common, *loose, "--score", 0)
    assert code == 0
    assert not _RAW.search(out + err), _RAW.search(out + err)
    document = json.loads((done / "predictions.json").read_text())
    first = document["images"][0]
    counts = {found["category"] for found in first["detections"]}
    assert out.startswith(f"{images / '000.png'}: ")
    assert all(name in out.splitlines()[0] for name in counts)
    assert f"annotated images: {done / 'pictures'}" in out.splitlines()
    highest = document["highest_score"]
    assert highest == max(found["score"] for image in document["images"] for found in image["detections"])

    code, out, _ = run_cli(*common, *loose, "--score", 0.9)
    assert code == 0
    assert f"nothing reaches --score 0.9; the highest score is {highest:.3f}, so try a lower --score" in out
    assert f"{images / '000.png'}: nothing" in out.splitlines()


def test_a_warning_of_a_library_is_shown_and_a_failing_run_leaves_no_bar(make_coco, small_config, tmp_path, capsys):
    from mmengine.hooks import Hook
    from mmengine.logging import print_log

    from tinyvit.detection.registry import HOOKS

    class Failing(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
            print_log("something is odd", "current", 30)
            print("a line of a module")
            raise InputError("the end")

    HOOKS.register_module(name="Failing", module=Failing, force=True)
    cfg = load_config(small_config, data_root=make_coco(), img_size=96)
    set_schedule(cfg, max_iters=2)
    cfg.custom_hooks = [{"type": "tinyvit.Failing"}]
    with pytest.raises(InputError, match="the end"):
        train(cfg, tmp_path / "run", device="cpu")
    printed = capsys.readouterr()
    assert "warning: something is odd" in printed.err.splitlines()
    assert printed.out == ""
    assert "a line of a module" in next((tmp_path / "run").glob("*/*.log")).read_text()


def test_the_bar_on_a_terminal_gives_way_to_the_bar_of_a_validation(
    make_coco, small_config, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    shown: list[str] = []
    for name in ("pause", "resume"):
        inner = getattr(console.RateBar, name)
        monkeypatch.setattr(console.RateBar, name, lambda bar, inner=inner, name=name: (shown.append(name), inner(bar)))
    cfg = load_config(small_config, data_root=make_coco(), img_size=96)
    set_schedule(cfg, epochs=1, batch_size=4)
    train(cfg, tmp_path / "run", device="cpu")
    assert shown == ["pause", "resume"]


@pytest.mark.slow
def test_the_best_of_a_config_that_says_what_is_best_is_kept(make_coco, small_config, tmp_path) -> None:
    cfg = load_config(small_config, data_root=make_coco(), img_size=96)
    set_schedule(cfg, max_iters=1)
    cfg.default_hooks.checkpoint.update(save_best="coco/bbox_mAP_50", rule="greater")
    assert train(cfg, tmp_path / "run", device="cpu")["best"]["metric"] == "bbox_mAP_50"
    state = torch.load(next((tmp_path / "run").glob("best_coco_bbox_mAP_50_iter_1.pth")), weights_only=False)
    assert state["meta"]["iter"] == 1
