"""Progress of long runs: a bar on a terminal, a line every ten seconds elsewhere, all on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

_SECONDS_BETWEEN_LINES = 10.0


def say(message: str) -> None:
    """Print a line of log on standard error."""
    print(message, file=sys.stderr, flush=True)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 shard``, ``2 shards``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """Return seconds as ``h:mm:ss``."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class RateBar:
    """Share done, units per second and time left, as a context manager.

    Args:
        description: Name of the work.
        total: Units in all; ``None`` where that is not known.
        unit: Their name, plural.
        show: ``False`` keeps silent.
    """

    def __init__(self, description: str, total: int | None, unit: str, show: bool = True) -> None:
        self.description, self.total, self.unit, self.show = description, total, unit, show
        self.done = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> RateBar:
        self._start = self._last_line = time.monotonic()
        self._paused: float | None = None
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

    def pause(self) -> None:
        """Make room for another bar; the time until :meth:`resume` does not count."""
        self._paused = time.monotonic()
        if self._bar is not None:
            self._bar.stop()

    def resume(self) -> None:
        """Show the bar again; nothing happens where it was not paused."""
        if self._paused is None:
            return
        self._start += time.monotonic() - self._paused
        self._paused = None
        if self._bar is not None:
            self._bar.start()

    def advance(self, units: int, note: str = "") -> None:
        """Count units as done; ``note`` is shown behind the rate."""
        self.done += units
        now = time.monotonic()
        rate = self.done / max(now - self._start, 1e-9)
        text = f"{self.done:,} {self.unit}"
        if self.total is not None:
            left = duration((self.total - self.done) / rate)
            speed = f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
            text = f"{self.done:,}/{self.total:,} {self.unit}, {speed} {self.unit}/s, {left} left"
        text += note
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=text)
        elif self.show and now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            say(f"{self.description}: {text}")


def track(items: Iterable[T], description: str, total: int | None = None, unit: str = "steps") -> Iterator[T]:
    """Yield items, and report each as done once the next one is asked for.

    Args:
        items: The items of the work.
        description: Name of the work.
        total: The number of items; by default their length. Where neither is known, the time left
            is not reported.
        unit: Name of the items, plural.
    """
    known = len(items) if total is None and isinstance(items, Sized) else total
    with RateBar(description, known, unit) as bar:
        for item in items:
            yield item
            bar.advance(1)
