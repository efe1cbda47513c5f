"""Options without effect beside the others are errors that name them, in every command."""

from __future__ import annotations

import os
import re

import pytest

from tinyvit.cli import app
from tinyvit.commands import _effects
from tinyvit.commands._help import DEFAULT_COMMAND

ONNX = ("label", "DATA", "STORE", "--teacher", "x.onnx")
VERIFY, BENCH, EXPORT = (
    ("labels", "verify", "STORE"),
    ("bench", "tiny_vit_5m_224"),
    ("export", "onnx", "tiny_vit_5m_224"),
)
BASELINE = ("bench", "--baseline", "result.json")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("models", "--env", "tiny_vit_*"), "PATTERN"),
        ((*ONNX, "--centre", "--scale", "0.2", "1"), "--scale"),
        ((*ONNX, "--centre", "--crop-scale", "0.2", "1"), "--scale"),
        ((*ONNX, "--centre", "--ratio", "1", "1"), "--ratio"),
        ((*ONNX, "--centre", "--hflip", "0.5"), "--hflip"),
        ((*ONNX, "--centre", "--seed", "3"), "--seed"),
        ((*ONNX, "--color-jitter-prob", "0.5"), "--color-jitter-prob"),
        ((*ONNX, "--remode", "const"), "--remode"),
        ((*ONNX, "--augment", "deit", "--reprob", "0", "--remode", "const"), "--remode"),
        ((*ONNX, "--mixup-prob", "0.5"), "--mixup-prob"),
        ((*ONNX, "--augment", "deit", "--cutmix", "0", "--mixup-switch-prob", "0.1"), "--mixup-switch-prob"),
        ((*ONNX, "--labels", "x.csv", "--check-images", "0"), "--labels"),
        ((*ONNX, "--teacher-classes", "x.txt"), "--teacher-classes"),
        ((*ONNX, "--teacher-prompts", "x.txt"), "--teacher-prompts"),
        ((*ONNX, "--ray", "local", "--device", "cuda:1"), "--device"),
        ((*VERIFY, "--sample", "5"), "--sample"),
        ((*VERIFY, "--device", "cpu"), "--device"),
        ((*VERIFY, "--teacher-size", "64"), "--teacher-size"),
        (("pretrain", "tiny_vit_5m_distill", "--val-interval", "2"), "--val-interval"),
        (("detect", "test", "C", "--weights", "W", "--limit-images", "2"), "--limit-images"),
        (("probe", "linear", "M", "--data", "D", "--ray", "auto", "--device", "cuda:0"), "--device"),
        ((*BENCH, "--against-engine", "deploy"), "--against-engine"),
        ((*BENCH, "--against-precision", "bf16"), "--against-precision"),
        ((*BENCH, "--fail-if-slower", "5%"), "--fail-if-slower"),
        ((*BENCH, "--relative"), "--relative"),
        ((*BENCH, "--allow-undecided"), "--allow-undecided"),
        ((*BENCH, "--latency-bound", "100ms"), "--latency-bound"),
        ((*BENCH, "--scenario", "Offline", "--latency-bound", "1s"), "--latency-bound"),
        ((*BENCH, "--mlperf-length"), "--mlperf-length"),
        ((*BASELINE, "--engine", "deploy"), "--engine"),
        ((*BASELINE, "--batch-size", "4"), "--batch-size"),
        ((*BASELINE, "--size", "64"), "--size"),
        ((*BASELINE, "--device", "cpu"), "--device"),
        ((*EXPORT, "--out-indices", "1"), "--out-indices"),
        ((*EXPORT, "--features", "--classes", "x.txt"), "--classes"),
        ((*EXPORT, "--features", "--num-classes", "5", "--weights", "x"), "--num-classes"),
    ],
)
def test_an_option_without_effect_is_named(run_cli, command, option):
    code, out, err = run_cli(*command)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"tinyvit: {option} .+; or leave {option} out\n", err)


def test_options_with_their_partner_pass_this_check(run_cli):
    """They fail later, at files that do not exist."""
    for more in (
        ("--reprob", "0.2", "--remode", "const"),
        ("--mixup", "0.8", "--mixup-prob", "0.4"),
        ("--scale", "0.5", "1"),
    ):
        code, _, err = run_cli(*ONNX, *more)
        assert code == 2
        assert "DATA does not exist" in err


def test_the_table_names_options_that_exist():
    commands = {}
    for group in app.registered_groups:
        for command in group.typer_instance.registered_commands:
            name = command.name or command.callback.__name__
            commands[f"{group.name} {name}"] = command.callback
    commands |= {command.name: command.callback for command in app.registered_commands}
    assert f"bench {DEFAULT_COMMAND}" in commands
    for name, effects in _effects._EFFECTS.items():
        known = commands[name].__annotations__
        assert {option for effect in effects for option in effect.options} <= set(known)


@pytest.mark.parametrize(
    "command",
    [
        ("bench", "--baseline", "{fifo}"),
        ("bench", "compare", "{fifo}", "result.json"),
        ("evaluate", "tiny_vit_5m_224", "--data", "{fifo}"),
        ("evaluate", "tiny_vit_5m_224", "--data", "{folder}", "--weights", "{fifo}"),
        ("label", "{fifo}", "STORE", "--teacher", "x.onnx"),
        ("label", "DATA", "STORE", "--teacher", "{fifo}"),
        ("export", "onnx", "tiny_vit_5m_224", "--random-weights", "--classes", "{fifo}"),
        ("detect", "predict", "CONFIG", "a.jpg", "{fifo}", "--weights", "x.pth"),
    ],
)
def test_a_pipe_in_the_place_of_a_file_is_named_and_nothing_waits(run_cli, command, tmp_path):
    fifo = tmp_path / "pipe.json"
    os.mkfifo(fifo)
    code, out, err = run_cli(*(word.format(fifo=fifo, folder=tmp_path) for word in command))
    assert (code, out) == (2, "")
    assert f"{fifo} is a FIFO, not a file; write its content into a file first" in err
