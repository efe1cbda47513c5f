"""The rounds: their order, when to stop, and which rounds are measured again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ...statistics import RESAMPLES, Ratio, median_interval, paired_ratio, quantile
from ..results.load import with_steps
from ..results.measurements import Round, SubjectResult
from ..results.subjects import Subject
from .plan import Plan
from .process import WorkerDiedError, WorkerFailedError, WorkerProcess
from .sensor import ContentionSensor

# Resamples of the intervals that decide when to stop; those in the report draw more often.
_QUICK = 400
# Minimum number of rounds before stopping: with fewer, an interval is more often narrow by luck.
_LEAST_TO_STOP = 10
# Seconds; subjects with a longer start (compiled ones, for example) keep their process.
_LONGEST_START = 15.0
# Turns of a subject before later turns are compared with its own clock.
_LEAST_CLOCKS = 3


@dataclass
class Runner:
    """A subject's result, its worker and the length of its turns.

    Args:
        result: The result that collects the turns.
        worker: The worker that runs them.
        seconds: Minimum duration of a turn.
        counts: Whether its disturbed turns and its interval count (not for a peak).
        runnable: The subject that the worker runs, which may be an exported file; ``None`` for no
            fresh starts.
        starts: Number of starts of the worker's process.
        start_seconds: Duration of the last start, from building to warm.
    """

    result: SubjectResult
    worker: WorkerProcess
    seconds: float
    counts: bool = True
    runnable: Subject | None = None
    starts: int = 1
    start_seconds: float = 0.0

    @property
    def alive(self) -> bool:
        """Return whether its worker still runs."""
        return self.result.error is None


@dataclass
class Rounds:
    """Runs rounds until there are enough, then repeats disturbed ones in the time that is left.

    Repeats come last, because a disturbance mostly lasts longer than one round.

    Args:
        runners: In the order of the report; peaks last.
        plan: How long and how carefully to measure.
        reference: The position of the reference among the runners, if any.
        deadline: The ``time.perf_counter()`` by which every round except the first must end.
        sensor: Watches every turn.
        restart: Gives each of the runners a fresh process, loaded and warm; ``None`` for never.
    """

    runners: list[Runner]
    plan: Plan
    reference: int | None
    deadline: float | None
    sensor: ContentionSensor
    restart: Callable[[list[Runner]], None] | None = None
    repeated: list[dict[str, Any]] = field(default_factory=list)
    ended: str = ""
    _seconds: list[float] = field(default_factory=list)

    def run(self) -> Iterator[None]:
        """Run all rounds, yielding after each; afterwards ``ended`` says why they ended."""
        orders: list[list[int]] = []
        source = iter_orders(len(self.runners), self.plan.seed)
        while any(runner.alive and runner.counts for runner in self.runners):
            again = None
            if self._enough(len(orders)):
                again = self._to_repeat()
                if again is None:
                    return
            if orders and self._late(again is None and self._restart_due(len(orders))):
                self._note_time_up(len(orders))
                return
            began = time.perf_counter()
            if again is None:
                if self._restart_due(len(orders)):
                    self._restart()
                    began = time.perf_counter()
                orders.extend(islice(source, 1))
                self._keep(self._take_turns(len(orders) - 1, orders[-1]))
            else:
                self._repeat(again, orders[again])
            self._seconds.append(time.perf_counter() - began)
            yield
        self.ended = f"nothing was left to measure after {_rounds(len(orders))}"

    def widths(self) -> dict[str, float]:
        """Return the half width of each 95 % interval as a share of its middle.

        The intervals are those of ratios, or of medians without a reference. Failed subjects are
        left out; subjects with too few rounds are infinitely wide.
        """
        base = None if self.reference is None else self.runners[self.reference]
        found = {}
        for runner in self.runners:
            if not (runner.alive and runner.counts) or runner is base:
                continue
            found[runner.result.label] = (
                self._width_of_ratio(runner.result, base.result)
                if base is not None and base.alive
                else self._width_of_median(runner.result)
            )
        return found

    def _width_of_ratio(self, result: SubjectResult, base: SubjectResult) -> float:
        ratio = compare_rounds(result, base, self.plan, _QUICK)
        if ratio is None or ratio.rounds < _LEAST_TO_STOP:
            return float("inf")
        return (ratio.interval.high - ratio.interval.low) / 2 / ratio.value

    def _width_of_median(self, result: SubjectResult) -> float:
        if len(result.rounds) < _LEAST_TO_STOP:
            return float("inf")
        starts = [turn.start for turn in result.rounds]
        interval = median_interval([turn.samples for turn in result.rounds], self.plan.seed, _QUICK, starts)
        return (interval.high - interval.low) / 2 / quantile(result.samples, 0.5)

    def _enough(self, done: int) -> bool:
        target = self.plan.precision_target
        if target is None:
            self.ended = f"{_rounds(done)}, as planned"
            return done >= self.plan.rounds
        widest = max(self.widths().values(), default=0.0) if done >= _LEAST_TO_STOP else float("inf")
        self.ended = f"every interval within ±{target:.1%} after {_rounds(done)} (widest ±{widest:.1%})"
        return widest <= target

    def _late(self, restart: bool) -> bool:
        if self.deadline is None:
            return False
        recent = self._seconds[-3:]
        ahead = sum(recent) / len(recent)
        if restart:  # imports run in parallel and are not in these times: doubling is a fair guess
            ahead += 2 * sum(runner.start_seconds for runner in self._to_restart())
        return time.perf_counter() + ahead > self.deadline

    def _restart_due(self, done: int) -> bool:
        every = self.plan.rounds_per_start
        return self.restart is not None and every is not None and done > 0 and done % every == 0

    def _to_restart(self) -> list[Runner]:
        return [one for one in self.runners if one.counts and one.alive and one.start_seconds <= _LONGEST_START]

    def _restart(self) -> None:
        if self.restart is not None:
            self.restart(self._to_restart())

    def _note_time_up(self, done: int) -> None:
        if self._enough(done):  # only the repeats of disturbed rounds are missing
            self.ended += "; no time was left to repeat disturbed rounds"
            return
        target, limit = self.plan.precision_target, f"time was up ({self.plan.max_seconds:.0f} s)"
        if target is None:
            self.ended = f"{limit} after {done} of {_rounds(self.plan.rounds)}"
            return
        widest = max(self.widths().values(), default=float("inf"))
        width = f"widest ±{widest:.1%}" if widest < float("inf") else "too few rounds to say how wide they are"
        self.ended = f"{limit} after {_rounds(done)}, before every interval was within ±{target:.1%} ({width})"

    def _to_repeat(self) -> int | None:
        """Return the disturbed round to repeat: the first of those with the fewest repeats."""
        if len(self.repeated) >= self.plan.repeat_disturbed:
            return None
        disturbed = {
            turn.index
            for one in self.runners
            if one.counts and one.alive
            for turn in one.result.rounds
            if turn.disturbed
        }
        tries = [again["round"] for again in self.repeated]
        return min(sorted(disturbed), key=tries.count, default=None)

    def _repeat(self, index: int, order: Sequence[int]) -> None:
        """Measure all turns of a round again.

        Keep the less disturbed of both, and note the other.
        """
        alive = [at for at in order if self.runners[at].alive]
        before = {at: turn for at in alive for turn in self.runners[at].result.rounds if turn.index == index}
        after = self._take_turns(index, order)
        better = after.keys() == before.keys() and self._disturbed(after) < self._disturbed(before)
        dropped = before if better else after
        for at in after if better else ():
            rounds = self.runners[at].result.rounds
            rounds[rounds.index(before[at])] = after[at]
        reasons = sorted({name for at, turn in before.items() if self.runners[at].counts for name in turn.disturbed_by})
        self.repeated.append({
            "round": index,
            "because": reasons,
            "replaced": better,
            "dropped_medians": {
                self.runners[at].result.label: quantile(turn.samples, 0.5) for at, turn in sorted(dropped.items())
            },
        })  # fmt: skip

    def _disturbed(self, turns: dict[int, Round]) -> int:
        return sum(turn.disturbed for at, turn in turns.items() if self.runners[at].counts)

    def _keep(self, turns: dict[int, Round]) -> None:
        for at, turn in turns.items():
            self.runners[at].result.rounds.append(turn)

    def _take_turns(self, index: int, order: Sequence[int]) -> dict[int, Round]:
        turns = {}
        for position, at in enumerate(order):
            if self.runners[at].alive:
                turn = self._take_turn(self.runners[at], index, position)
                if turn is not None:
                    turns[at] = turn
        return turns

    def _take_turn(self, runner: Runner, index: int, position: int) -> Round | None:
        self.sensor.start(runner.worker.pid)
        request = {"do": "round", "seconds": runner.seconds, "iterations": self.plan.round_iterations}
        try:
            reply = runner.worker.ask(request, self.plan.timeout)
        except (WorkerFailedError, WorkerDiedError) as error:
            runner.result.error = f"in round {index + 1}: {error}"
            runner.worker.stop()
            return None
        load, reasons = self.sensor.stop(), []
        samples, seconds = reply.pop("samples"), reply.pop("seconds")
        if load is not None:
            load = with_steps(load, samples, seconds, reply.get("involuntary_switches"))
            subject = runner.result.subject
            reasons = self.plan.limits.exceeded(load, subject.threads or 1, _usual_clock(runner.result))
        return Round(index, position, samples, reply, load, bool(reasons), reasons, runner.starts - 1)


def compare_rounds(result: SubjectResult, base: SubjectResult, plan: Plan, resamples: int = RESAMPLES) -> Ratio | None:
    """Return the paired ratio of two subjects over the rounds that both finished, if any."""
    times, base_times = _medians(result), _medians(base)
    both = sorted(times.keys() & base_times.keys())
    if not both:
        return None
    numbers: dict[Any, int] = {}
    marks = [(times[at][1], base_times[at][1]) for at in both]
    starts = [numbers.setdefault(mark, len(numbers)) for mark in marks]
    ratio_of = ([times[at][0] for at in both], [base_times[at][0] for at in both])
    return paired_ratio(*ratio_of, plan.margin, plan.seed, resamples, starts)


def iter_orders(count: int, seed: int) -> Iterator[list[int]]:
    """Yield the order of turns of each round: shuffled, then reversed, then shuffled anew.

    With the reversal, either subject of a pair comes first in equally many rounds. A drift of the
    machine within rounds cancels.
    """
    generator = random.Random(seed)
    while True:
        order = generator.sample(range(count), count)
        yield order
        yield order[::-1]


def _medians(result: SubjectResult) -> dict[int, tuple[float, int]]:
    """Return the median and the start of each round."""
    return {turn.index: (quantile(turn.samples, 0.5), turn.start) for turn in result.rounds}


def _usual_clock(result: SubjectResult) -> float | None:
    """Return the median clock of a subject's turns so far; ``None`` while there are too few."""
    loads: list[Any] = [turn.load for turn in result.rounds if turn.load is not None]
    known = [load.frequency_mhz for load in loads if load.frequency_mhz is not None]
    return quantile(known, 0.5) if len(known) >= _LEAST_CLOCKS else None


def _rounds(count: int) -> str:
    return f"{count} round{'' if count == 1 else 's'}"
