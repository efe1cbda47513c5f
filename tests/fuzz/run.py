"""Run mutated inputs through the commands, and report what does not end as it should.

    python -m tests.fuzz.run KIND --count 1000 --seed 1

A case is a kind of input and a seed. Commands run inside a worker process. A case that takes longer
than the limit, or that crashes the process, ends the worker. Another worker does the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "written_before" / "data"
#: Seconds that a case may take, and the first one of a process, which imports torch.
LIMIT, FIRST_LIMIT = 40, 180
#: Bytes of address space of a worker: what a small input asks for beyond it is a finding.
_MEMORY = 24 << 30
_LONGEST_MESSAGE = 1200


class FindingError(Exception):
    """A case ended as it should not; the first line is the same for cases with one cause."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    def document(self) -> Any:
        """Return the JSON document on stdout; NaN is not JSON."""
        try:
            return json.loads(self.out, parse_constant=_reject)
        except ValueError as error:
            raise FindingError(f"stdout is not one JSON document: {error}\n{self.out[-500:]}") from None


def _reject(word: str) -> None:
    raise ValueError(f"it holds {word}")


class Case:
    """One mutated input and the commands on it.

    Args:
        kind: Name of a function of :mod:`.kinds`.
        seed: 0 leaves the input as it is, and all commands must end with 0.

    Attributes:
        folder: A new folder for the input and for what the commands write.
    """

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.seed, self.rng = kind, seed, random.Random(f"{kind} {seed}")
        self.folder = Path(tempfile.mkdtemp(prefix="case-"))

    def changed(self, change: Callable[[random.Random, Any], Any], value: Any) -> Any:
        """Return a mutated value; that of seed 0 is the value itself."""
        return change(self.rng, value) if self.seed else value

    def pick(self, *values: Any) -> Any:
        """Return one of several values; seed 0 has the first."""
        return self.rng.choice(values) if self.seed else values[0]

    def run(self, *command: Any) -> Outcome:
        """Run a command, or a function as a command would run it.

        Raises:
            FindingError: A traceback, an exit code that is not 0 to 3, or not one sentence for it.
        """
        from tinyvit.commands._common import report_errors

        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = _exit_code(lambda: report_errors(command[0]) if callable(command[0]) else _main(command))
        texts = []
        for stream in (out, err):
            stream.flush()
            texts.append(stream.buffer.getvalue().decode("utf-8"))  # pyright: ignore[reportAttributeAccessIssue]
        self._judge(Outcome(code, *texts))
        return Outcome(code, *texts)

    def _judge(self, outcome: Outcome) -> None:
        said = (outcome.err.splitlines() or [""])[-1]
        if outcome.code not in ((0, 1, 2, 3) if self.seed else (0,)):
            raise FindingError(f"exit code {outcome.code}\n{said}")
        if outcome.code and not (said.startswith("tinyvit: ") and 15 < len(said) <= _LONGEST_MESSAGE):
            raise FindingError(f"exit code {outcome.code} without one sentence\n{outcome.err[-1500:]}")
        if "Traceback (most recent call last)" in outcome.out + outcome.err:
            raise FindingError(f"a traceback is printed\n{outcome.err[-3000:]}")


def _main(command: Iterable[Any]) -> Any:
    from tinyvit.cli import main

    main([str(argument) for argument in command])


def _exit_code(run: Callable[[], Any]) -> int:
    try:
        return int(run() or 0)
    except SystemExit as ended:
        return int(ended.code or 0)
    except Exception as error:
        raise FindingError(_place(error) + "\n" + traceback.format_exc()[-3000:]) from None


def _place(error: BaseException) -> str:
    """Return the error's type and the last line of ours that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        f
        for f in frames
        if "site-packages" not in f.filename and "/tests/" not in f.filename and "tinyvit" in f.filename
    ]
    last = ours[-1] if ours else frames[-1]
    return f"{type(error).__name__} at {'/'.join(Path(last.filename).parts[-3:])}:{last.lineno} {last.name}"


# --- the worker ---------------------------------------------------------------


def run_case(kind: str, seed: int) -> str:
    """Run one case in the current folder, a copy of the data; return the finding, or empty text."""
    from . import kinds

    case = Case(kind, seed)
    try:
        kinds.KINDS[kind](case)
    except FindingError as found:
        return str(found)
    except Exception:  # a check that itself fails on a result
        return f"the check fails\n{traceback.format_exc()[-3000:]}"
    finally:
        shutil.rmtree(case.folder, ignore_errors=True)
    return ""


def _work() -> None:
    """Run the cases that come on stdin, a line each, and answer with a line of JSON each."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries in C print there
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    for number, line in enumerate(sys.stdin):
        kind, seed = line.split()
        faulthandler.dump_traceback_later(LIMIT if number else FIRST_LIMIT, exit=True)
        answers.write(json.dumps(run_case(kind, int(seed))) + "\n")
        faulthandler.cancel_dump_traceback_later()


# --- the parent ---------------------------------------------------------------


def run_cases(cases: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int, str]]:
    """Yield each case with its finding, or empty text."""
    with tempfile.TemporaryDirectory() as scratch:
        data = shutil.copytree(DATA, Path(scratch) / "data")
        worker, log = None, Path(scratch) / "log"
        for kind, seed in cases:
            if worker is None or worker.poll() is not None:
                worker = _start(data, log)
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write(f"{kind} {seed}\n")
            worker.stdin.flush()
            answer = worker.stdout.readline()
            if answer:
                yield kind, seed, json.loads(answer)
                continue
            code, said = worker.wait(), log.read_text(errors="replace")
            how = "no end within the limit" if "Timeout (" in said else f"the process ended with code {code}"
            yield kind, seed, f"{how}\n{said[-3000:]}"
        if worker is not None and worker.stdin is not None:
            worker.stdin.close()
            worker.wait()


def _start(data: Path, log: Path) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))
    scratch = data.parent / "cases"
    scratch.mkdir(exist_ok=True)
    settings = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TMPDIR": str(scratch), "TQDM_DISABLE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.run", "--worker"],
        cwd=data,
        env={**os.environ, **settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log.open("w"),
        text=True,
    )


def main() -> int:
    """Run the cases of one kind or of all; print what was found, one cause after the other."""
    from . import kinds

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*kinds.KINDS, []], help="kinds of inputs; all without one")
    parser.add_argument("--count", type=int, default=100, help="cases per kind")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first case; the others follow")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work()
        return 0
    causes: Counter[str] = Counter()
    for kind in options.kinds or kinds.KINDS:
        ran = 0
        for _, seed, finding in run_cases((kind, seed) for seed in range(options.seed, options.seed + options.count)):
            ran += 1
            if finding:
                cause = f"{kind}: {finding.splitlines()[0]}"
                causes[cause] += 1
                print(f"{kind} {seed}: {finding if causes[cause] == 1 else finding.splitlines()[0]}", flush=True)
        print(f"{kind}: {ran} cases", flush=True)
    for cause, count in causes.most_common():
        print(f"{count:5d}  {cause}")
    return int(bool(causes))


if __name__ == "__main__":
    sys.exit(main())
