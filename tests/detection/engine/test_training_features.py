"""Training options of MMDetection with our configs. The backbone's calls are counted, because a
run that skips it ends well, too.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm

from tinyvit.backbones import InputError, TinyViT, deploy
from tinyvit.detection import evaluate, load_config, set_schedule, train
from tinyvit.detection.runtime import import_mmdet, join_launcher

pytestmark = pytest.mark.filterwarnings("ignore")

Run = Callable[..., Any]


@pytest.fixture
def calls(monkeypatch) -> list[dict[str, Any]]:
    """Each call of a TinyViT: whether it trained, and the dtype of its last map."""
    seen: list[dict[str, Any]] = []
    forward = TinyViT.forward_intermediates

    def counted(self: TinyViT, x: torch.Tensor, **options: Any) -> Any:
        seen.append({"training": self.training, "images": len(x)})  # a repeated call may end early
        maps = forward(self, x, **options)
        seen[-1]["dtype"] = maps[-1].dtype
        return maps

    monkeypatch.setattr(TinyViT, "forward_intermediates", counted)
    return seen


@pytest.fixture
def run(make_coco, small_config, tmp_path) -> Run:
    """A function that trains the small RetinaNet for four iterations, two images each."""
    root = make_coco(train=8, val=2)

    def trained(name: str, changes: dict[str, Any] | None = None, iterations: int = 4, **options: Any) -> Any:
        cfg = load_config(small_config, data_root=root, img_size=96, overrides={"auto_scale_lr.enable": False})
        set_schedule(cfg, max_iters=iterations, batch_size=2)
        cfg.default_hooks.checkpoint.interval = 2
        cfg.merge_from_dict(changes or {})
        return cfg, train(cfg, tmp_path / name, device="cpu", **options)

    return trained


def state_of(found: dict[str, Any]) -> dict[str, Any]:
    return torch.load(found["checkpoint"], weights_only=False, map_location="cpu")


def weights_of(found: dict[str, Any]) -> dict[str, torch.Tensor]:
    return state_of(found)["state_dict"]


def far(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], start: str = "backbone.") -> float:
    """The largest difference between two states below a name."""
    names = [name for name in a if name.startswith(start) and a[name].is_floating_point()]
    assert names
    return max(float((a[name] - b[name]).abs().max()) for name in names)


def training(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [call for call in calls if call["training"]]


@pytest.mark.slow
def test_averaged_weights(run, calls, tmp_path) -> None:
    hook = {"type": "EMAHook", "ema_type": "ExpMomentumEMA", "momentum": 0.2, "update_buffers": True, "priority": 49}
    cfg, found = run("ema", {"custom_hooks": [hook]})
    assert len(training(calls)) == 4
    state = state_of(found)
    # mmengine keeps the averaged weights as those of the model, and the others beside them.
    assert (
        far(
            state["state_dict"],
            state["ema_state_dict"]["module"]
            if "module" in state["ema_state_dict"]
            else {name.removeprefix("module."): value for name, value in state["ema_state_dict"].items()},
        )
        > 0
    )
    assert evaluate(cfg, found["checkpoint"], tmp_path / "test", device="cpu") == pytest.approx(found["metrics"])
    _, more = run("ema", {"custom_hooks": [hook]}, iterations=6, resume=True)
    assert (len(training(calls)), int(state_of(more)["ema_state_dict"]["steps"])) == (6, 6)


@pytest.mark.parametrize("wrapper", ["AmpOptimWrapper", "tinyvit.AmpOptimWrapper"])
def test_mixed_precision_on_a_cpu(run, calls, wrapper: str) -> None:
    _, exact = run("fp32")
    assert {call["dtype"] for call in training(calls)} == {torch.float32}
    calls.clear()
    _, found = run("bf16", {"optim_wrapper.type": wrapper})
    assert [call["dtype"] for call in training(calls)] == [torch.bfloat16] * 4
    assert found["losses"]["last"] == pytest.approx(exact["losses"]["last"], rel=0.05)
    weights = weights_of(found)
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}
    assert 0 < far(weights, weights_of(exact)) < 0.01
    with pytest.raises(InputError, match=r"optim_wrapper\.dtype is float16; on a CPU use bfloat16"):
        run("fp16", {"optim_wrapper.type": wrapper, "optim_wrapper.dtype": "float16"})


def test_mixed_precision_with_masks(calls, small_arch) -> None:
    """RoIAlign and the mask head in bfloat16."""
    from tinyvit.detection import AmpOptimWrapper

    from ..test_detectors import batch, small_detector

    detector = small_detector("mask-rcnn", {"type": "tinyvit.TinyViT", "arch": small_arch}, [16, 24, 32, 48]).train()
    wrapper = AmpOptimWrapper(optimizer=torch.optim.AdamW(detector.parameters()))
    inputs = batch(detector, [[3, 97, 131], [3, 128, 150]], training=True)
    with wrapper.optim_context(detector):
        losses, log = detector.parse_losses(detector(**inputs, mode="loss"))
    assert all(value.isfinite() for value in log.values())
    losses.backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None] == []
    assert [call["dtype"] for call in calls] == [torch.bfloat16]


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"activation_checkpointing": ["backbone"]}, {"model.backbone.with_cp": True}])
def test_activation_checkpointing_changes_no_weight(run, calls, how: dict[str, Any]) -> None:
    """With mmengine's own reentrant form the backbone would get no gradient."""
    fixed = {"model.backbone.norm_eval": True}
    _, plain = run("plain", fixed)
    calls.clear()
    _, saving = run("saving", fixed | how)
    # The whole backbone is called again in each backward pass, or its blocks alone.
    assert len(training(calls)) == (8 if "activation_checkpointing" in how else 4)
    assert far(weights_of(saving), weights_of(plain), "") < 1e-6


@pytest.mark.slow
def test_gradient_accumulation(run, calls) -> None:
    _, found = run("accumulated", {"optim_wrapper.accumulative_counts": 2}, iterations=6)
    assert len(training(calls)) == 6
    assert {int(value["step"]) for value in state_of(found)["optimizer"]["state"].values()} == {3}


@pytest.mark.slow
def test_the_learning_rate_follows_the_batch(run, calls) -> None:
    for batch_size in (2, 4):
        _, found = run(
            f"scaled-{batch_size}", {"auto_scale_lr.enable": True, "train_dataloader.batch_size": batch_size}, 1
        )
        assert found["lr"] == pytest.approx(1e-4 * batch_size / 16)
    assert [call["images"] for call in training(calls)] == [2, 4]


@pytest.mark.slow
def test_stopped_and_resumed_in_mixed_precision_with_recomputation(run, calls) -> None:
    changes = {"optim_wrapper.type": "AmpOptimWrapper", "model.backbone.with_cp": True}
    _, whole = run("whole", changes)
    stopped = Path(whole["checkpoint"]).with_name("iter_2.pth")
    parts_folder = stopped.parent.with_name("parts")
    parts_folder.mkdir()
    (parts_folder / "last_checkpoint").write_text(str(stopped))
    calls.clear()
    _, parts = run("parts", changes, resume=True)
    assert len(training(calls)) == 2
    assert far(weights_of(parts), weights_of(whole), "") < 1e-6
    assert {int(value["step"]) for value in state_of(parts)["optimizer"]["state"].values()} == {4}


@pytest.mark.slow
def test_compiled_backbone(run) -> None:
    hook = {"type": "tinyvit.CompileBackboneHook", "backend": "eager"}
    changes = {"val_cfg": None, "val_dataloader": None, "val_evaluator": None}
    _, plain = run("plain", changes, iterations=2)
    torch._dynamo.utils.counters.clear()
    _, found = run("compiled", changes | {"custom_hooks": [hook]}, iterations=2)
    assert torch._dynamo.utils.counters["stats"]["calls_captured"] > 0
    assert not torch._dynamo.utils.counters["graph_break"]
    assert far(weights_of(found), weights_of(plain), "") < 1e-4
    assert weights_of(found).keys() == weights_of(plain).keys()


def test_synchronised_batch_norm() -> None:
    """Converted, all norms are exchanged, under the same names and with the same frozen parts; it
    trains on GPUs alone.
    """
    from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm

    from tinyvit.detection import TinyViT as Backbone

    torch.manual_seed(0)
    backbone = Backbone("5m", frozen_stages=1)
    names, image = list(backbone.state_dict()), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        wanted = backbone.eval()(image)
        count = sum(isinstance(module, _BatchNorm) for module in backbone.modules())
        synced: Any = convert_sync_batchnorm(backbone, "torch").eval()
        assert sum(isinstance(module, SyncBatchNorm) for module in synced.modules()) == count > 20
        assert list(synced.state_dict()) == names
        reverted = revert_sync_batchnorm(copy.deepcopy(synced)).eval()
        for maps in (synced(image), deploy(synced)(image), reverted(image)):
            for found, right in zip(maps, wanted, strict=True):
                torch.testing.assert_close(found, right, rtol=0, atol=2e-5 * float(right.abs().max()))
    synced.train()
    frozen = [synced.patch_embed, synced.stages[0]]
    assert not any(module.training for part in frozen for module in part.modules())
    assert synced.stages[1].training


def test_synchronised_batch_norm_in_a_run(run, calls) -> None:
    run("one-process", {"sync_bn": "torch"})  # mmengine leaves BatchNorm where there is one process
    assert len(training(calls)) == 4


_COUNTING = """
import atexit, os, sys
place = f"{sys.argv[1]}.{os.environ.get('SLURM_PROCID', os.environ.get('OMPI_COMM_WORLD_RANK'))}"
from tinyvit.backbones import TinyViT
forward = TinyViT.forward_intermediates
count = [0]
def counted(self, *args, **kwargs):
    count[0] += self.training
    return forward(self, *args, **kwargs)
TinyViT.forward_intermediates = counted
atexit.register(lambda: open(place, "w").write(str(count[0])))
from tinyvit.cli import main
sys.argv = ["tinyvit", *sys.argv[2:]]
main()
"""


def spawn(script: Path, variables: list[dict[str, str]], arguments: list[str]) -> list[subprocess.CompletedProcess]:
    """Run two processes as a launcher does: each with its own variables."""
    started = [
        subprocess.Popen(
            [sys.executable, str(script), *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in variables
    ]
    done = []
    for process in started:
        out, err = process.communicate(timeout=300)
        done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return done


def launched(launcher: str, port: int) -> list[dict[str, str]]:
    names = {"slurm": ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS")}.get(
        launcher, ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE")
    )
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{**dict(zip(names, (str(rank), str(rank), "2"), strict=True)), **place} for rank in range(2)]


def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["slurm", "mpi"])
def test_two_processes_share_a_training(make_coco, small_config, tmp_path, launcher: str) -> None:
    """Gloo, without ``find_unused_parameters``: a parameter without gradient would end the second
    iteration. Each process has half of the images.
    """
    script = tmp_path / "counting.py"
    script.write_text(_COUNTING)
    arguments = [str(tmp_path / "calls"), "detect", "train", str(small_config), "--data-root", str(make_coco(train=8))]
    arguments += ["--img-size", "96", "--epochs", "2", "--batch-size", "2", "--workers", "0", "--device", "cpu"]
    arguments += ["--launcher", launcher, "--work-dir", str(tmp_path / "work")]
    done = spawn(script, launched(launcher, free_port()), arguments)
    assert [process.returncode for process in done] == [0, 0], done[0].stderr[-2000:] + done[1].stderr[-2000:]
    assert [(tmp_path / f"calls.{rank}").read_text() for rank in range(2)] == ["4", "4"]
    log = next((tmp_path / "work").glob("*/*.log")).read_text()
    assert "MMDistributedDataParallel" in log
    state = torch.load(tmp_path / "work" / "epoch_2.pth", weights_only=False)
    assert {int(value["step"]) for value in state["optimizer"]["state"].values()} == {4}


def test_launchers_that_did_not_launch(monkeypatch) -> None:
    for names in (("RANK", "LOCAL_RANK", "WORLD_SIZE"), ("SLURM_PROCID",), ("OMPI_COMM_WORLD_RANK",), ("MASTER_ADDR",)):
        for name in names:
            monkeypatch.delenv(name, raising=False)
    join_launcher(None)
    join_launcher("none")
    with pytest.raises(InputError, match="--launcher slurm: SLURM_PROCID is not set; start it with srun"):
        join_launcher("slurm")
    with pytest.raises(InputError, match="--launcher pytorch: RANK is not set; start it with torchrun"):
        join_launcher("pytorch")
    with pytest.raises(InputError, match="unknown --launcher 'lsf'"):
        join_launcher("lsf")
    for name, value in launched("mpi", 1)[0].items():
        if name.startswith("OMPI"):
            monkeypatch.setenv(name, value)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
    with pytest.raises(InputError, match="--launcher mpi: MASTER_ADDR is not set; export the name"):
        join_launcher("mpi")


def test_time_augmentation(run, calls, tmp_path, make_coco) -> None:
    cfg, found = run("start", iterations=1)
    calls.clear()
    plain = evaluate(cfg, found["checkpoint"], tmp_path / "plain", device="cpu")
    assert len(calls) == 2
    calls.clear()
    merged = evaluate(cfg, found["checkpoint"], tmp_path / "tta", device="cpu", tta=True)
    assert len(calls) == 4  # each of two images, as it is and mirrored
    assert merged.keys() == plain.keys()
    assert cfg.model.type == "RetinaNet"
    cfg.test_evaluator.metric = ["bbox", "segm"]
    with pytest.raises(InputError, match=r"--tta merges boxes alone, and test_evaluator\.metric is \['bbox', 'segm'\]"):
        evaluate(cfg, found["checkpoint"], tmp_path / "segm", device="cpu", tta=True)


def test_time_augmentation_finds_mirrored_boxes(run, tmp_path) -> None:
    """Boxes of mirrored images are mirrored back, and merge with the others."""
    import_mmdet()
    from mmdet.registry import MODELS
    from mmengine.structures import InstanceData

    from tinyvit.detection.engine.tta import set_tta

    cfg, _ = run("start", iterations=1)
    set_tta(cfg)
    model = MODELS.build(cfg.model)
    from mmdet.structures import DetDataSample

    def sample(box: list[float], flip: bool) -> Any:
        one = DetDataSample(
            metainfo={"flip": flip, "flip_direction": "horizontal", "ori_shape": (96, 96), "img_shape": (96, 96)}
        )
        one.pred_instances = InstanceData(
            bboxes=torch.tensor([box]), scores=torch.tensor([0.9 - 0.1 * flip]), labels=torch.tensor([1])
        )
        return one

    (merged,) = model.merge_preds([[sample([10.0, 20.0, 30.0, 40.0], False), sample([66.0, 20.0, 86.0, 40.0], True)]])
    assert merged.pred_instances.bboxes.tolist() == [[10.0, 20.0, 30.0, 40.0]]
