"""Progress: lines elsewhere than on a terminal, and what they say."""

import io
import sys

import pytest

from tinyvit.core import console
from tinyvit.core.console import RateBar, counted, duration, track


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass from one look at the clock to the next: 11, so that every line is due."""
    ticks = iter(range(0, 10_000, 11))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(ticks)))


def test_lines_name_the_share_the_rate_and_the_time_left(clock, capsys):
    assert list(track([1, 2, 3], "reading", unit="files")) == [1, 2, 3]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "reading: 1/3 files, 0.091 files/s, 0:00:22 left"
    assert lines[2] == "reading: 3/3 files, 0.091 files/s, 0:00:00 left"


def test_an_unknown_number_has_no_time_left(clock, capsys):
    list(track(iter([1, 2]), "measuring", unit="rounds"))
    assert capsys.readouterr().err.splitlines() == ["measuring: 1 rounds", "measuring: 2 rounds"]


def test_a_given_total_counts_for_an_iterator(clock, capsys):
    list(track(iter([1]), "hashing", 4, "blocks"))
    assert capsys.readouterr().err == "hashing: 1/4 blocks, 0.091 blocks/s, 0:00:33 left\n"


def test_nothing_is_printed_between_lines_or_when_silent(capsys):
    list(track(range(100), "fast"))
    with RateBar("silent", 2, "rows", show=False) as bar:
        bar.advance(2)
    assert capsys.readouterr().err == ""


def test_a_pause_does_not_count(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with RateBar("train", 4, "iterations") as bar:
        bar.resume()  # nothing was paused
        now[0] = 10.0
        bar.advance(1)
        bar.pause()
        now[0] = 1000.0
        bar.resume()
        now[0] = 1010.0
        bar.advance(1)
    assert capsys.readouterr().err.splitlines()[-1] == "train: 2/4 iterations, 0.1 iterations/s, 0:00:20 left"


def test_bars_on_a_terminal_are_shown_one_at_a_time(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with RateBar("train", 4, "iterations") as bar:
        bar.advance(1)
        bar.pause()
        with RateBar("validate", 2, "images") as inner:
            inner.advance(1)
        bar.resume()
        bar.advance(1)
    text = terminal.getvalue()
    assert text.index("1/4 iterations") < text.index("1/2 images") < text.rindex("2/4 iterations")


def test_words_for_numbers():
    assert (counted(1, "shard"), counted(2, "shard")) == ("1 shard", "2 shards")
    assert duration(3661.4) == "1:01:01"
