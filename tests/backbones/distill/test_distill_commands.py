"""The commands of this room: one walk along the road, and bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch

SMALL = "student.embed_dims=(8,16,16,32) student.depths=(1,1,1,1) student.num_heads=(1,1,1,1) student.img_size=32"


@pytest.fixture(scope="module")
def data(pictures, tmp_path_factory) -> Path:
    """The images with labels beside them, one of them damaged."""
    folder = Path(shutil.copytree(pictures, tmp_path_factory.mktemp("data") / "images"))
    (folder / "04.jpg").write_bytes((folder / "04.jpg").read_bytes()[:150])
    names = sorted(path.name for path in folder.iterdir())
    lines = [f"{name},{index % 20}" for index, name in enumerate(names)]
    (folder.parent / "labels.csv").write_text("\n".join(["file,class_index", *lines]))
    (folder / "moving.gif").write_bytes(b"GIF89a")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "teacher.pth"
    torch.save(timm.create_model("test_efficientnet", num_classes=20).state_dict(), path)
    return path


@pytest.fixture
def label(data, weights):
    def command(store: Path, *more: object) -> list[object]:
        teacher = ("--teacher", "timm:test_efficientnet", "--teacher-weights", weights, "--teacher-size", 64)
        return ["label", data, store, *teacher, "--topk", 5, "--views", 2, "--shard-size", 8, "--device", "cpu", *more]

    return command


def test_road_from_pictures_to_an_evaluated_student(data, weights, label, tmp_path, run_cli):
    store, work = tmp_path / "store", tmp_path / "run"
    code, out, err = run_cli(*label(store))
    assert code == 0
    assert "teacher top-1 on 22 un-augmented views of 23 images with a true class: " in err
    assert "23 images x 2 views, 3 shards (3 made now), 1 image unreadable" in out
    assert "unreadable: 04.jpg" in out
    left_out = f"1 file in {data} is not an image of a known kind (.gif 1) and skipped"
    assert left_out in out
    assert "skipped unreadable image" in err
    assert json.loads((store / "result.json").read_text())["metrics"]["rows_made"] == 46
    assert json.loads((store / "result.json").read_text())["metrics"]["left_out"] == {".gif": 1}
    assert "(0 made now)" in run_cli(*label(store))[1]

    code, out, _ = run_cli("labels", "info", store)
    assert code == 0
    assert "3 of 3 finished, 8 images each: complete" in out
    assert "timm:test_efficientnet at 64 px, fp32" in out
    teacher = ("--teacher", "timm:test_efficientnet", "--teacher-weights", weights, "--sample", 10)
    code, out, _ = run_cli("labels", "verify", store, "--data", data, *teacher, "--device", "cpu", "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["rows"], report["pixels"], report["problems"]) == (46, 3, [])
    assert report["teacher_distance"] < 0.01
    assert report["teacher_rows"] >= 8

    train = ["pretrain", "tiny_vit_5m_distill", "--data", data, "--labels", store, "--device", "cpu"]
    train += ["--cfg-options", "input_size=32", *SMALL.split(), "batch_size=4", "workers=0", "log_interval=2"]
    code, out, _ = run_cli(*train, "--epochs", 6, "--work-dir", work, "--json")
    assert code == 0
    metrics = json.loads(out)["metrics"]
    assert metrics["iterations"] == 33
    assert Path(metrics["student"]).is_file()
    code, out, err = run_cli("evaluate", "tiny_vit_5m_224", "--data", data, "--weights", metrics["student"],
                       "--device", "cpu", "--work-dir", tmp_path / "evaluate", "--json")  # fmt: skip
    assert code == 1  # all others are measured
    assert "not read: 04.jpg: cannot read image" in err
    assert "1 of 23 images could not be read; repair or remove them" in err.splitlines()[-1]
    result = json.loads(out)["metrics"]
    assert (result["images"], result["unreadable"], result["left_out"]) == (22, 1, {".gif": 1})
    assert list(result["unreadable_images"]) == ["04.jpg"]
    assert result["model"]["preprocess"]["size"] == [32, 32]
    assert 0 <= result["top1"] <= result["top5"] <= 1


def test_damaged_store_fails_verification_and_names_shard_and_row(data, label, tmp_path, run_cli):
    store = tmp_path / "store"
    run_cli(*label(store))
    shard = sorted((store / "teachers").glob("*/shards/*.safetensors"))[1]
    content = bytearray(shard.read_bytes())
    content[-9] ^= 1
    shard.write_bytes(bytes(content))
    code, out, err = run_cli("labels", "verify", store)
    assert code == 1
    assert f"{shard.name}: row 15 (image 15, view 1) fails its checksum" in out
    assert err.count("\n") == 1
    # `label` looks at lengths alone: this shard must be deleted first, and only this one.
    assert out.count("`tinyvit label`") == 1
    assert "delete its .safetensors and run the same `tinyvit label`" in out
    shard.write_bytes(bytes(content)[:-100])
    code, out, _ = run_cli("labels", "verify", store)
    assert code == 1
    assert f"{shard.name} is truncated" in out
    assert "run the same `tinyvit label` again to make it anew" in out
    assert "delete" not in out
    arguments = ["pretrain", "tiny_vit_5m_distill", "--data", data, "--labels", store, "--work-dir", tmp_path / "run"]
    code, _, err = run_cli(*arguments, "--device", "cpu", "--cfg-options", *SMALL.split(), "workers=0")
    assert code == 2
    assert f"{shard.name} is truncated" in err


def test_info_reports_a_manifest_that_is_not_whole(store, tmp_path, run_cli):
    copy = Path(shutil.copytree(store.path, tmp_path / "store"))
    manifest = copy / "manifest.safetensors"
    whole = manifest.read_bytes()
    header = json.loads((copy / "store.json").read_text())
    manifest.write_bytes(whole[:-100])
    code, out, err = run_cli("labels", "info", copy)
    assert (code, out) == (2, "")
    assert f"{manifest} is truncated: it has {len(whole) - 100} bytes, and its header asks for {len(whole)}" in err
    assert err.count("\n") == 1
    manifest.unlink()
    code, _, err = run_cli("labels", "info", copy)
    assert (code, err) == (2, f"tinyvit: {manifest} is missing; take it from a copy, or make a new store\n")
    # A header that counts other images than the labels were made for.
    manifest.write_bytes(whole)
    header["manifest"]["images"] -= 1
    (copy / "store.json").write_text(json.dumps(header))
    code, _, err = run_cli("labels", "info", copy)
    assert code == 2
    assert "labels.json belongs to store" in err


def test_a_finished_run_keeps_its_result(store, pictures, tmp_path, run_cli):
    train = ["pretrain", "tiny_vit_5m_distill", "--data", pictures, "--labels", store.path, "--device", "cpu"]
    train += ["--work-dir", tmp_path, "--max-iters", 3, "--cfg-options", "input_size=32", *SMALL.split()]
    train += ["batch_size=4", "workers=0", "warmup_iters=0"]
    assert run_cli(*train)[0] == 0
    first, student = (tmp_path / "result.json").read_bytes(), (tmp_path / "student.safetensors").read_bytes()
    metrics = json.loads(first)["metrics"]
    assert metrics["seconds"] > 0
    code, out, err = run_cli(*train, "--resume")
    assert code == 0
    assert "already finished after 3 iterations" in err
    assert f"{metrics['images_per_second']:.0f} views/s" in out
    code, out, _ = run_cli(*train, "--resume", "--json")
    assert (code, json.loads(out)) == (0, json.loads(first))
    assert (tmp_path / "result.json").read_bytes() == first
    assert (tmp_path / "student.safetensors").read_bytes() == student
    # Another command's result in the same folder is not this run's, and neither is a torn one.
    for strange in ('{"command": "evaluate", "metrics": {"iterations": 3}}', "{"):
        (tmp_path / "result.json").write_text(strange)
        assert run_cli(*train, "--resume")[0] == 0
        assert json.loads((tmp_path / "result.json").read_text())["metrics"]["iterations"] == 3
        assert json.loads((tmp_path / "result.json").read_text())["command"] == "pretrain"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["label", "{tmp}/none", "{tmp}/s", "--teacher", "efficientnet_lite2"], "none does not exist"),
        (["label", "{data}", "{tmp}/s", "--teacher", "efficientnet_lyte2"], "did you mean"),
        (["label", "{data}", "{tmp}/s", "--teacher", "timm:test_vit"], "needs a weights file"),
        (["label", "{data}", "{tmp}/s", "--teacher", "efficientnet_lite2", "--crop-scale", "0.5", "0.1"], "crop scale"),
        (["labels", "info", "{tmp}/none"], "has no store.json"),
        (["labels", "verify", "{tmp}"], "has no store.json"),
        (["pretrain", "tiny_vit_5m_distil"], "did you mean tiny_vit_5m_distill"),
        (["pretrain", "tiny_vit_5m_distill"], "needs images and soft labels"),
        (["pretrain", "tiny_vit_5m_distill", "--data", "{data}", "--labels", "{tmp}"], "has no store.json"),
        (["pretrain", "tiny_vit_5m_distill", "--resume"], "--resume needs --work-dir"),
        (["pretrain", "tiny_vit_5m_distill", "--cfg-options", "lr"], "'lr' must be KEY=VALUE"),
        (["evaluate", "tiny_vit_5m_225", "--data", "{data}"], "did you mean"),
        (["evaluate", "tiny_vit_5m_224", "--data", "{data}", "--weights", "{tmp}/none.pth"], "none.pth does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, message, data, tmp_path, monkeypatch, run_cli):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_cli(*(text.format(tmp=tmp_path, data=data) for text in arguments))
    assert code == 2
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("tinyvit: ")
    assert message in last
    assert "Traceback" not in err


def test_store_of_another_teacher_is_refused(label, tmp_path, run_cli):
    store = tmp_path / "store"
    run_cli(*label(store))
    code, _, err = run_cli(*label(store, "--topk", 4))
    assert code == 2
    assert "was labelled with topk 5, and this run asks for 4" in err
    code, _, err = run_cli(*label(store, "--teacher-size", 96))
    assert code == 2
    assert "teacher.preprocess.size [64, 64], and this run asks for [96, 96]" in err


def test_labels_of_other_classes_that_merely_lie_there_stop_no_teacher(pictures, label, weights, tmp_path, run_cli):
    folder = Path(shutil.copytree(pictures, tmp_path / "photos"))
    (folder / "labels.csv").write_text("file,class_index\n00.jpg,700\n")
    command = label(tmp_path / "store")
    command[1] = folder
    code, out, err = run_cli(*command)
    assert code == 0
    assert "the teacher's accuracy is not measured: " in err
    assert "labels.csv has classes 700 to 700, and the model has 20; give a file or a model whose classes fit" in err
    assert "top-1" not in out
    code, _, err = run_cli(*command, "--labels", folder / "labels.csv")
    assert code == 2
    assert "has classes 700 to 700, and the model has 20" in err


def test_ctrl_c_says_what_is_kept(label, tmp_path, run_cli, monkeypatch):
    def stopped(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("tinyvit.backbones.distill.label.run.label_store", stopped)
    kept = "tinyvit: interrupted; finished shards are kept: give the same command to resume\n"
    assert run_cli(*label(tmp_path / "store")) == (130, "", kept)
    monkeypatch.undo()
    run_cli(*label(tmp_path / "store"))
    monkeypatch.setattr("tinyvit.backbones.distill.tools.verify.describe_store", stopped)
    assert run_cli("labels", "info", tmp_path / "store") == (130, "", "tinyvit: interrupted\n")


def test_two_centre_views_of_an_image_are_rejected(data, weights, label, tmp_path, run_cli):
    code, _, err = run_cli(*label(tmp_path / "store", "--centre"))
    assert code == 2
    assert "2 centre views of an image are the same; leave --views out" in err


def test_inputs_below_the_stride_and_keys_given_twice_are_rejected(data, tmp_path, run_cli):
    command = ("pretrain", "tiny_vit_5m_1k", "--data", data, "--work-dir", tmp_path, "--device", "cpu", "--img-size")
    code, _, err = run_cli(*command, 7)
    assert code == 2
    assert "img_size is 7 pixels" in err
    code, _, err = run_cli(*command, 64, "--lr", "0.1", "--cfg-options", "lr=0.2")
    assert code == 2
    assert "lr is given by its option and in --cfg-options; give it once" in err
    code, _, err = run_cli("pretrain", "tiny_vit_5m_distill", "--data", data, "--truth", data.parent / "labels.csv")
    assert code == 2
    assert "--truth has no effect: loss = 'teacher' uses no true classes" in err


def test_unknown_names_of_timm_show_the_closest_ones(data, tmp_path, run_cli):
    code, _, err = run_cli(*("label", data, tmp_path / "store", "--teacher", "timm:tiny_vitt_21_224=x.pth"))
    assert code == 2
    assert "unknown timm model 'tiny_vitt_21_224'; did you mean tiny_vit_21m_224" in err
    assert "aimv2" not in err
