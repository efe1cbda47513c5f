"""A detector of a checkpoint alone: its config is read as data, and its results are arrays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tinyvit
from tinyvit.backbones import InputError
from tinyvit.core.images.decode import decode
from tinyvit.detection import Detector, Predictor, load_config, read_detector, set_schedule, train
from tinyvit.detection.stored import stored_config

pytestmark = pytest.mark.filterwarnings("ignore")

WRITTEN_BEFORE = Path(__file__).parents[1] / "written_before" / "data"
CHECKPOINT = WRITTEN_BEFORE / "runs" / "detector" / "epoch_150.pth"
IMAGES = sorted((WRITTEN_BEFORE / "detect" / "coco" / "val2017").iterdir())


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(CHECKPOINT, device="cpu")


def plain_content() -> dict:
    """The checkpoint's weights and records, without mmengine's own objects."""
    content = read_detector(CHECKPOINT)[0].content
    return {"state_dict": dict(content["state_dict"]), "meta": dict(content["meta"])}


def changed(tmp_path: Path, old: str, new: str) -> Path:
    """The checkpoint with another text in the config that it holds."""
    content = plain_content()
    assert old in content["meta"]["cfg"]
    content["meta"]["cfg"] = content["meta"]["cfg"].replace(old, new)
    torch.save(content, tmp_path / "changed.pth")
    return tmp_path / "changed.pth"


def test_a_checkpoint_of_before_knows_its_classes_and_its_size(detector) -> None:
    assert (detector.classes, detector.input_size) == (("red", "green", "blue"), (96, 96))


def test_detections_are_those_of_the_predictor_with_the_config(detector) -> None:
    pixels = np.asarray(decode(IMAGES[0].read_bytes()))
    cfg = load_config(CHECKPOINT.parents[1] / "retinanet_small.py", img_size=96, classes=detector.classes)
    wanted = Predictor(cfg, CHECKPOINT)(pixels)
    found = detector.predict(IMAGES[0], score_thr=0.0)
    assert len(found) == len(wanted) > 0
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (np.float32, np.float32, np.int64)
    assert found.masks is None
    assert found.size == pixels.shape[1::-1]
    corners = [(x, y, x + w, y + h) for x, y, w, h in (one["bbox"] for one in wanted)]
    np.testing.assert_allclose(found.boxes, corners, atol=0.02)
    np.testing.assert_allclose(found.scores, [one["score"] for one in wanted], atol=1e-5)
    assert found.names == tuple(one["category"] for one in wanted)
    assert found.labels.tolist() == [one["label"] for one in wanted]
    best = detector.predict(IMAGES[0], score_thr=float(found.scores[0]))
    assert len(best) == 1


def test_a_path_an_image_and_an_array_are_one_image(detector, tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.open(IMAGES[1]).convert("RGB").resize((120, 80))
    turned.save(tmp_path / "turned.png", exif=exif)
    path = tmp_path / "turned.png"
    wanted = detector.predict(path, score_thr=0.0)
    assert wanted.size == (80, 120)  # upright
    for image in (str(path), Image.open(path), np.asarray(decode(path.read_bytes()))):
        found = detector.predict(image, score_thr=0.0)
        np.testing.assert_array_equal(found.boxes, wanted.boxes)
        np.testing.assert_array_equal(found.scores, wanted.scores)
    grey = np.asarray(Image.open(path).convert("L"))
    shown = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(
        detector.predict(grey, score_thr=0.0).boxes, detector.predict(shown, score_thr=0.0).boxes
    )


def test_a_batch_gives_what_single_images_give(detector, tmp_path) -> None:
    Image.open(IMAGES[0]).resize((60, 150)).save(tmp_path / "tall.png")
    images = [*IMAGES, tmp_path / "tall.png", *IMAGES]
    single = [detector.predict(image, score_thr=0.0) for image in images]
    together = detector.predict(iter(images), score_thr=0.0, batch_size=5)
    assert isinstance(together, list)
    for one, other in zip(single, together, strict=True):
        np.testing.assert_allclose(other.boxes, one.boxes, atol=1e-3)
        np.testing.assert_allclose(other.scores, one.scores, atol=1e-5)
        assert other.names == one.names
    assert detector.predict([]) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"an array of shape \(3, 8, 8\) .* give uint8, RGB"),
        (np.zeros((8, 8, 3), np.float32), "type float32"),
        (np.zeros((0, 8, 3), np.uint8), "is not an image"),
        (torch.zeros(8, 8, 3), "an image is a Tensor"),
        ("https://a.b/c.jpg", "is an address; download the image first"),
        ("none.jpg", "image none.jpg does not exist"),
        (IMAGES[0].parent, "is a folder; give an image file"),
    ],
)
def test_what_is_not_an_image_is_one_sentence(detector, image, message) -> None:
    with pytest.raises(InputError, match=message):
        detector.predict([image])


@pytest.mark.parametrize("bad", [{"score_thr": 1.5}, {"score_thr": float("nan")}, {"batch_size": 0}])
def test_options_out_of_range(detector, bad) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        detector.predict(IMAGES[0], **bad)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("type='RetinaNet'", "type='os.system'", "model.type is 'os.system', which is not registered"),
        ("type='RetinaNet'", "type='mmengine.load'", "not registered"),  # unpickles a file
        ("type='RetinaNet'", "type='subprocess'", "not registered"),
        ("iou_threshold=0.5, type='nms'", "type='print(1)'", "model.test_cfg.nms.type is 'print"),  # mmcv evaluates it
        ("type='FPN'", "type='FPN', _scope_='antigravity'", "model.neck._scope_ is 'antigravity'"),
        ("type='FPN'", "type='FPN', mode='a().b'", "which is not a plain word"),
        ("type='FPN'", "type='FPN', teacher_ckpt='a.pth'", "model.neck.teacher_ckpt names a file"),
        ("type='PackDetInputs'", "type='pickle.loads'", "pipeline.* is 'pickle.loads'"),
        ("type='FPN'", "type=print('x')", "calls something else than dict"),
        ("type='FPN'", "type=FPN", "cannot be read as data"),
        ("model = dict(", "import os\nmodel = dict(", "is not NAME = VALUE"),
        ("model = dict(", "module = dict(", "cannot be read as data"),
    ],
)
def test_a_config_of_unknown_origin_runs_nothing(old, new, message, tmp_path, capfd) -> None:
    with pytest.raises(InputError, match=f"the config in .*changed.pth is not used: .*{message}.*; give the config"):
        Detector(changed(tmp_path, old, new), device="cpu")
    assert "x" not in capfd.readouterr().out.splitlines()


def test_origins_of_weights_are_dropped(tmp_path) -> None:
    weights = "type='FPN', init_cfg=dict(type='Pretrained', checkpoint='http://a.b/c.pth')"
    path = changed(tmp_path, "type='FPN'", weights)
    assert len(Detector(path, device="cpu").predict(IMAGES[0], score_thr=0.0)) > 0


def test_a_checkpoint_without_a_config_needs_one(tmp_path) -> None:
    content = plain_content()
    model = stored_config(read_detector(CHECKPOINT)[0])
    del content["meta"]["cfg"]
    torch.save(content, tmp_path / "bare.pth")
    with pytest.raises(InputError, match=r"bare.pth holds no config of its training; give the config, too"):
        Detector(tmp_path / "bare.pth")
    assert Detector(tmp_path / "bare.pth", config=model, device="cpu").classes == ("red", "green", "blue")
    with pytest.raises(InputError, match="tiny_vit_5m_fpn"):  # which does not fit
        Detector(tmp_path / "bare.pth", config="retinanet_tiny_vit_5m_fpn_1x", device="cpu")


def test_a_training_without_validation_keeps_its_size_too(make_coco, small_config, tmp_path, monkeypatch) -> None:
    root = make_coco(train=2, val=0)
    cfg = load_config(small_config, data_root=root, img_size=64)
    set_schedule(cfg, max_iters=1)
    run = train(cfg, tmp_path / "run", device="cpu")
    (tmp_path / "run" / "small.py").unlink()
    found = tinyvit.Detector(run["checkpoint"], device="cpu")
    assert (found.input_size, found.classes) == ((64, 64), ("red", "green", "blue"))
    monkeypatch.chdir(tmp_path)
    assert tinyvit.Detector(run["checkpoint"], device="cpu", img_size=96).input_size == (96, 96)


def test_predict_without_a_config(run_cli, tmp_path) -> None:
    code, out, err = run_cli("detect", "predict", CHECKPOINT, IMAGES[0], "--work-dir", tmp_path / "a", "--score", 0.1)
    assert code == 0, err
    assert f"image size 96 x 96 px, from the training's config in {CHECKPOINT}" in err
    assert "1 image, score 0.1 or higher" in out
    document = json.loads((tmp_path / "a" / "predictions.json").read_text())
    assert document["classes"] == ["red", "green", "blue"]
    assert document["images"][0]["detections"]
    code, _, err = run_cli("detect", "predict", CHECKPOINT, IMAGES[0], "--weights", CHECKPOINT)
    assert (code, "is a checkpoint, and --weights is" in err) == (2, True)
    code, _, err = run_cli("detect", "predict", "retinanet_tiny_vit_5m_fpn_1x_coco", IMAGES[0])
    assert (code, "needs --weights; or give a checkpoint in its place" in err) == (2, True)
    code, _, err = run_cli("detect", "predict", tmp_path / "none.pth", IMAGES[0])
    assert (code, "none.pth does not exist" in err) == (2, True)
