"""Schedules fitted to runs of other lengths."""

from __future__ import annotations

import pytest
import torch

from tinyvit.core.errors import InputError
from tinyvit.core.schedules import describe_fitted, fit_warmup
from tinyvit.detection import load_config, set_schedule

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
RETINANET = "retinanet_tiny_vit_5m_fpn_1x_coco"


def test_schedule_in_epochs_moves_milestones_and_caps_the_warm_up(make_coco) -> None:
    cfg = load_config(RETINANET, data_root=make_coco(train=8))
    set_schedule(cfg, epochs=24, batch_size=4)
    assert cfg.train_cfg.max_epochs == 24
    warm_up, steps = cfg.param_scheduler
    assert steps.milestones == [16, 22]
    assert (steps.end, steps.by_epoch) == (24, True)
    assert warm_up.end == 4  # a tenth of 24 epochs x 2 iterations
    assert cfg.train_dataloader.batch_size == 4
    assert cfg.default_hooks.logger.interval == 4


def test_schedule_in_iterations_counts_in_iterations(make_coco) -> None:
    cfg = load_config(RETINANET, data_root=make_coco())
    assert set_schedule(cfg, max_iters=60) == ["warm-up of 1000 iterations shortened to 6: the run has 60"]
    assert set_schedule(cfg) == []  # once is enough
    assert cfg.train_cfg == {"type": "IterBasedTrainLoop", "max_iters": 60, "val_interval": 60}
    warm_up, steps = cfg.param_scheduler
    assert (steps.milestones, steps.end, steps.by_epoch) == ([40, 55], 60, False)
    assert warm_up.end == 6
    assert not cfg.default_hooks.checkpoint.by_epoch
    with pytest.raises(InputError, match="not both"):
        set_schedule(cfg, epochs=1, max_iters=1)
    with pytest.raises(InputError, match="at least 1"):
        set_schedule(cfg, epochs=0)


@pytest.mark.parametrize(("length", "first"), [(4, 1.0), (19, 1.0), (20, 0.001)])
def test_the_full_rate_is_reached_however_short_the_run(make_coco, length: int, first: float) -> None:
    from mmengine.optim import LinearLR

    cfg = load_config(RETINANET, data_root=make_coco())
    notes = set_schedule(cfg, max_iters=length)
    assert notes == [describe_fitted(1000, fit_warmup(1000, length), length)]
    settings = {key: value for key, value in cfg.param_scheduler[0].items() if key != "type"}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = LinearLR(optimizer, **settings)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([first, 1.0, 1.0, 1.0])


def test_a_cosine_schedule_is_stretched() -> None:
    from tinyvit.detection.engine.schedule import _fit_scheduler, _Length

    cosine = {
        "type": "CosineAnnealingLR",
        "begin": 6,
        "end": 12,
        "T_max": 6,
        "by_epoch": True,
        "convert_to_iter_based": True,
    }
    in_epochs = dict(cosine)
    _fit_scheduler(in_epochs, _Length(120, 12), _Length(60, 6))
    assert in_epochs == {**cosine, "begin": 3, "end": 6, "T_max": 3}
    in_iterations = dict(cosine)
    _fit_scheduler(in_iterations, _Length(120, 12), _Length(60, None))
    expected = {"type": "CosineAnnealingLR", "begin": 30, "end": 60, "T_max": 30, "by_epoch": False}
    assert in_iterations == expected


def test_an_epoch_of_repeated_images_is_as_long_as_it_is(make_coco) -> None:
    cfg = load_config(RETINANET, data_root=make_coco(train=8))
    loader = cfg.train_dataloader
    loader.dataset = {"type": "RepeatDataset", "times": 4, "dataset": loader.dataset}
    set_schedule(cfg, epochs=10, batch_size=4)
    assert cfg.param_scheduler[0].end == 8  # a tenth of 10 epochs x 8 iterations


RTMDET = "rtmdet_tiny_tiny_vit_5m_4xb32-100e_coco"


@pytest.mark.parametrize(("epochs", "switch", "begin", "length"), [(50, 45, 25, 25), (10, 9, 5, 5), (1, 1, 0, 1)])
def test_a_switch_of_images_keeps_its_place(make_coco, epochs: int, switch: int, begin: int, length: int) -> None:
    from mmengine.optim import CosineAnnealingLR

    cfg = load_config(RTMDET, data_root=make_coco())
    set_schedule(cfg, epochs=epochs)
    assert cfg.custom_hooks[1].switch_epoch == switch  # of 90 in 100
    cosine = cfg.param_scheduler[1]
    assert (cosine.begin, cosine.end, cosine.T_max) == (begin, epochs, length)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    CosineAnnealingLR.build_iter_from_epoch(
        optimizer,
        **{key: value for key, value in cosine.items() if key not in ("type", "convert_to_iter_based")},
        epoch_length=3,
    )


def test_a_run_of_iterations_says_that_it_has_no_switch(make_coco) -> None:
    cfg = load_config(RTMDET, data_root=make_coco())
    notes = set_schedule(cfg, max_iters=100)
    assert notes[-1] == (
        "PipelineSwitchHook counts epochs and this run counts iterations; its switch of images does not come"
    )
    cfg = load_config("mmdet::yolox/yolox_tiny_8xb8-300e_coco", data_root=make_coco(name="other"))
    set_schedule(cfg, epochs=20)
    assert cfg.custom_hooks[0].num_last_epochs == 1  # of 15 in 300
