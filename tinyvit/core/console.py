"""How long runs report themselves: a bar on a terminal, a line now and then elsewhere. Everything
goes to stderr.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

_SECONDS_BETWEEN_LINES = 10.0


def say(message: str) -> None:
    """Print a line of log on standard error."""
    print(message, file=sys.stderr, flush=True)


def counted(number: int, noun: str) -> str:
    """A number and what it counts: ``1 shard``, ``2 shards``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """Seconds as ``h:mm:ss``."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class RateBar:
    """Share done, units a second and time left, as a context manager.

    Args:
        description: What is being done.
        total: Units in all.
        unit: Their name, plural.
        show: ``False`` keeps silent.
    """

    def __init__(self, description: str, total: int, unit: str, show: bool = True) -> None:
        self.description, self.total, self.unit, self.show = description, total, unit, show
        self.done = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> RateBar:
        self._start = self._last_line = time.monotonic()
        if self.show and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}")
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.description, total=self.total, rate="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, units: int, note: str = "") -> None:
        """Count units as done; ``note`` is shown behind the rate."""
        self.done += units
        now = time.monotonic()
        rate = self.done / max(now - self._start, 1e-9)
        left = duration((self.total - self.done) / rate)
        text = f"{self.done:,}/{self.total:,} {self.unit}, {rate:.0f} {self.unit}/s, {left} left{note}"
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=text)
        elif self.show and now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            say(f"{self.description}: {text}")


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar (share done, time left) on standard error when that is a
    terminal.
    """
    from rich.console import Console
    from rich.progress import track as rich_track

    console = Console(stderr=True)
    if not console.is_terminal:
        yield from items
        return
    yield from rich_track(items, description=description, total=total, console=console, transient=True)
