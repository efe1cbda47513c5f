"""Predicting on files, folders, patterns, videos and cameras; batches; COCO's result format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coder
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tinyvit.core.errors import InputError, StoppedError
from tinyvit.core.images.decode import decode
from tinyvit.detection import Detector, Predictor, load_config, predict, set_classes
from tinyvit.detection.predicting.sources import Clip, find_sources

pytestmark = pytest.mark.filterwarnings("ignore")

WRITTEN_BEFORE = Path(__file__).parents[2] / "written_before" / "data"
CHECKPOINT = WRITTEN_BEFORE / "runs" / "detector" / "epoch_150.pth"
COCO_ROOT = WRITTEN_BEFORE / "detect" / "coco"
IMAGES = sorted((COCO_ROOT / "val2017").iterdir())
ANNOTATIONS = COCO_ROOT / "annotations" / "instances_val2017.json"


@pytest.fixture(scope="module")
def cfg() -> Any:
    return load_config(WRITTEN_BEFORE / "runs" / "retinanet_small.py", img_size=96, classes=("red", "green", "blue"))


@pytest.fixture
def video(tmp_path) -> Path:
    """Five frames of two images, 8 frames per second."""
    frames = [np.asarray(decode(IMAGES[at % 2].read_bytes()).resize((96, 96))) for at in range(5)]
    writer = cv2.VideoWriter(str(tmp_path / "a drive.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 8, (96, 96))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return tmp_path / "a drive.mp4"


def frames_of(path: Path) -> list[np.ndarray]:
    capture, found = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        found.append(read[1][..., ::-1])
    return found


def test_files_folders_and_patterns_are_found_in_order(tmp_path) -> None:
    for name in ("b.png", "a.jpg", "deep/c.png", "clip.MP4", "note.txt", "[x].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def names(*given: object) -> list[str]:
        items = find_sources([str(one) for one in given]).items
        return [Path(item.name).name if isinstance(item, Clip) else item.name for item in items]

    assert names(tmp_path) == ["[x].png", "a.jpg", "b.png", "clip.MP4"]
    assert names(tmp_path / "*.png") == ["[x].png", "b.png"]
    assert names(tmp_path / "**" / "*.png") == ["[x].png", "b.png", "c.png"]
    assert names(tmp_path / "[x].png") == ["[x].png"]  # a file of this name comes before a pattern
    assert names(tmp_path / "b.png", tmp_path / "deep") == ["b.png", "c.png"]
    assert find_sources(["7"]).clips[0].source == 7


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("https://a.b/c.jpg", "https://a.b/c.jpg is an address; download the file"),
        ("rtsp://camera/1", "is an address"),
        ("-", r"standard input \(-\) is not read"),
        ("none*.jpg", r"no file matches none\*.jpg"),
        ("none.jpg", "image none.jpg does not exist"),
        ("none.mp4", "none.mp4 does not exist"),
    ],
)
def test_what_is_not_a_source_is_one_sentence(given, message) -> None:
    with pytest.raises(InputError, match=message):
        find_sources([given])


def test_a_batch_gives_what_single_images_give(cfg, tmp_path) -> None:
    Image.open(IMAGES[0]).convert("RGB").resize((50, 90)).save(tmp_path / "tall.png")
    images = [*IMAGES, tmp_path / "tall.png", *IMAGES]
    one = predict(cfg, CHECKPOINT, images, tmp_path / "one", score_threshold=0.0)
    many = predict(cfg, CHECKPOINT, images, tmp_path / "many", score_threshold=0.0, batch_size=3)
    assert [entry["file"] for entry in many["images"]] == [str(path) for path in images]
    for first, second in zip(one["images"], many["images"], strict=True):
        for a, b in zip(first["detections"], second["detections"], strict=True):
            assert a["category"] == b["category"]
            assert b["bbox"] == pytest.approx(a["bbox"], abs=0.011)
            assert b["score"] == pytest.approx(a["score"], abs=2e-5)


def test_a_bad_image_leaves_the_others_of_its_batch(cfg, tmp_path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    Image.new("RGB", (2000, 3)).save(tmp_path / "wide.png")  # less than a pixel high at 96 px
    images = [IMAGES[0], tmp_path / "bad.png", tmp_path / "wide.png", IMAGES[1]]
    found = predict(cfg, CHECKPOINT, images, tmp_path / "work", batch_size=4)
    assert [entry["file"] for entry in found["images"]] == [str(IMAGES[0]), str(IMAGES[1])]
    assert list(found["unreadable"]) == [str(tmp_path / "bad.png"), str(tmp_path / "wide.png")]


# --- videos ---------------------------------------------------------------------------------------


def test_a_video_becomes_a_video_with_boxes(cfg, video, tmp_path) -> None:
    found = predict(cfg, CHECKPOINT, [video, IMAGES[0]], tmp_path / "work", score_threshold=0.1, batch_size=2)
    (entry,) = found["videos"]
    assert (entry["file"], entry["frames"], entry["width"], entry["height"]) == (str(video), 5, 96, 96)
    assert entry["rate"] == pytest.approx(8)
    lines = [json.loads(line) for line in Path(entry["detections"]).read_text().splitlines()]
    assert [line["frame"] for line in lines] == [0, 1, 2, 3, 4]
    assert sum(len(line["detections"]) for line in lines) == entry["objects"] > 0
    drawn, plain = frames_of(Path(entry["picture"])), frames_of(video)
    assert len(drawn) == 5
    assert all(np.abs(a.astype(int) - b).max() > 60 for a, b in zip(drawn, plain, strict=True))  # boxes
    single = Detector(CHECKPOINT, device="cpu").predict(plain[3], score_thr=0.1)
    assert [one["category"] for one in lines[3]["detections"]] == list(single.names)
    boxes = [(x, y, x + w, y + h) for x, y, w, h in (one["bbox"] for one in lines[3]["detections"])]
    np.testing.assert_allclose(single.boxes, boxes, atol=0.03)
    assert len(found["images"]) == 1


def test_a_video_becomes_frames(cfg, video, tmp_path) -> None:
    found = predict(cfg, CHECKPOINT, video, tmp_path / "work", frames=True, max_frames=3)
    folder = Path(found["videos"][0]["picture"])
    assert sorted(path.name for path in folder.iterdir()) == ["000000.jpg", "000001.jpg", "000002.jpg"]
    assert Image.open(folder / "000001.jpg").size == (96, 96)


def test_a_file_that_is_not_a_video_is_listed(video, run_cli, tmp_path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    command = (
        "detect",
        "predict",
        CHECKPOINT,
        tmp_path / "bad.mp4",
        "--work-dir",
        tmp_path / "work",
        "--device",
        "cpu",
    )
    code, _, err = run_cli(*command)
    assert (code, "bad.mp4: it is not a video of a known format" in err) == (2, True)
    code, out, err = run_cli(*command, video, "--score", 0.1)
    assert code == 1
    assert f"{video}: " in out
    assert "in 5 frames: " in out
    assert f"not read: {tmp_path / 'bad.mp4'}: it is not a video of a known format" in err
    code, _, err = run_cli("detect", "predict", CHECKPOINT, "93", "--work-dir", tmp_path / "work", "--device", "cpu")
    assert (code, "for example camera 93: it is not a camera that is connected" in err) == (2, True)


def test_a_camera_runs_until_ctrl_c_and_all_is_kept(cfg, monkeypatch, tmp_path) -> None:
    pixels = np.asarray(decode(IMAGES[0].read_bytes()))[..., ::-1]

    class Camera:
        def __init__(self, source: int) -> None:
            assert source == 0
            self.count = 0

        def get(self, _: int) -> float:
            return 0.0

        def read(self) -> tuple[bool, np.ndarray]:
            self.count += 1
            if self.count > 4:
                raise KeyboardInterrupt
            return True, pixels

        def release(self) -> None:
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    with pytest.raises(StoppedError, match=r"stopped after 0 images and 4 frames; .*predictions.json holds them"):
        predict(cfg, CHECKPOINT, "0", tmp_path / "work", out=tmp_path / "results.json", score_threshold=0.1)
    monkeypatch.undo()
    (entry,) = json.loads((tmp_path / "work" / "predictions.json").read_text())["videos"]
    assert (entry["file"], entry["frames"], entry["rate"]) == ("camera 0", 4, 25.0)
    assert len(frames_of(Path(entry["picture"]))) == 4
    assert {one["image_id"] for one in json.loads((tmp_path / "results.json").read_text())} == {1, 2, 3, 4}


# --- COCO's result format -------------------------------------------------------------------------


def test_results_are_read_by_pycocotools_and_score_as_the_test_does(cfg, run_cli, tmp_path) -> None:
    out = tmp_path / "results.json"
    command = ("detect", "predict", CHECKPOINT, COCO_ROOT / "val2017", "--work-dir", tmp_path / "work")
    options = ("--score", 0, "--out", out, "--ann", ANNOTATIONS, "--batch-size", 2, "--device", "cpu")
    assert run_cli(*command, *options)[0] == 0
    truth = COCO(str(ANNOTATIONS))
    scored = COCOeval(truth, truth.loadRes(str(out)), "bbox")
    scored.evaluate()
    scored.accumulate()
    scored.summarize()
    tested = ("detect", "test", WRITTEN_BEFORE / "runs" / "retinanet_small.py", "--weights", CHECKPOINT)
    assert run_cli(*tested, "--data-root", COCO_ROOT, "--work-dir", tmp_path / "t", "--device", "cpu")[0] == 0
    metrics = json.loads((tmp_path / "t" / "result.json").read_text())["metrics"]
    assert scored.stats[0] == pytest.approx(metrics["bbox_mAP"], abs=2e-3)
    assert scored.stats[0] > 0


def test_masks_are_those_of_the_detector(small_arch, tmp_path) -> None:
    cfg = load_config("mask-rcnn_tiny_vit_5m_fpn_1x_coco", img_size=96)
    cfg.model.backbone.update(arch=small_arch, drop_path_rate=0.0)
    cfg.model.neck.update(in_channels=list(small_arch["embed_dims"]))
    cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)
    set_classes(cfg, ("red", "green"))
    torch.manual_seed(0)
    model = Predictor(cfg, None, deployed=False).model
    meta = {"cfg": cfg.pretty_text, "dataset_meta": {"classes": ("red", "green")}}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, tmp_path / "masks.pth")
    detector = Detector(tmp_path / "masks.pth", device="cpu")
    found = detector.predict(IMAGES[0], score_thr=0.0)
    assert found.masks is not None
    assert (len(found), found.masks.shape, found.masks.dtype) == (5, (5, *found.size[::-1]), np.bool_)
    out = tmp_path / "results.json"
    document = predict(cfg, tmp_path / "masks.pth", IMAGES[0], tmp_path / "work", score_threshold=0.0, out=out)
    results = json.loads(out.read_text())
    for one, mask in zip(results, found.masks, strict=True):
        np.testing.assert_array_equal(coder.decode(one["segmentation"]), mask)
    assert Path(document["images"][0]["picture"]).is_file()


def test_results_without_annotations_count_from_one(cfg, tmp_path) -> None:
    out = tmp_path / "results.json"
    found = predict(cfg, CHECKPOINT, IMAGES[:2], tmp_path / "work", score_threshold=0.1, out=out)
    results = json.loads(out.read_text())
    assert [entry["id"] for entry in found["images"]] == [1, 2]
    assert [(one["image_id"], one["category_id"] - 1, one["bbox"], one["score"]) for one in results] == [
        (entry["id"], one["label"], one["bbox"], one["score"])
        for entry in found["images"]
        for one in entry["detections"]
    ]
    assert results
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"score_threshold": 2.0}, "--score is 2"),
        ({"ann": ANNOTATIONS}, "--ann has no effect without --out"),
        ({"frames": True}, "--frames has no effect without a video"),
        ({"max_frames": 5}, "--max-frames has no effect without a video"),
        ({"out": "none/x.json"}, "folder none does not exist"),
        ({"out": "."}, ". is a folder"),
        ({"out": IMAGES[0]}, "is a file that this command reads"),
        ({"out": ANNOTATIONS, "ann": ANNOTATIONS}, "is a file that this command reads"),
        ({"out": CHECKPOINT}, "is a file that this command reads"),
    ],
)
def test_options_that_do_not_fit(cfg, options, message, tmp_path) -> None:
    with pytest.raises(InputError, match=message):
        predict(cfg, CHECKPOINT, IMAGES[0], tmp_path / "work", **options)
    assert not (tmp_path / "work").exists()


def test_annotations_that_do_not_fit(cfg, video, tmp_path) -> None:
    document = json.loads(ANNOTATIONS.read_text())
    out, work = tmp_path / "results.json", tmp_path / "work"
    Image.new("RGB", (96, 96)).save(tmp_path / "other.png")
    with pytest.raises(InputError, match=r"--ann .* does not name the image .*other.png"):
        predict(cfg, CHECKPOINT, [IMAGES[0], tmp_path / "other.png"], work, out=out, ann=ANNOTATIONS)
    with pytest.raises(InputError, match=r"--ann names images, and .*a drive.mp4 is a video"):
        predict(cfg, CHECKPOINT, video, work, out=out, ann=ANNOTATIONS)
    document["categories"][0]["name"] = "pink"
    (tmp_path / "ann.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="has no category 'red', which is a class of the detector"):
        predict(cfg, CHECKPOINT, IMAGES[0], work, out=out, ann=tmp_path / "ann.json")
    assert not out.exists()
