"""Progress: lines elsewhere than on a terminal, and what they say."""

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


def test_words_for_numbers():
    assert (counted(1, "shard"), counted(2, "shard")) == ("1 shard", "2 shards")
    assert duration(3661.4) == "1:01:01"
