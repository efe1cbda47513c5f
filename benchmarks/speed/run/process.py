"""A worker process, as the coordinator handles it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from types import TracebackType
from typing import IO, Any

from ..results.subjects import Subject

_MODULE = f"{__name__.removesuffix('run.process')}worker.serve"


class WorkerFailedError(Exception):
    """A worker's request failed; ``kind`` is ``input``, ``memory`` or ``error``."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message if kind != "memory" else f"out of memory ({message})")
        self.kind = kind


class WorkerDiedError(Exception):
    """The worker's process ended or did not answer in time."""


class WorkerProcess:
    """One worker, which :meth:`start` starts and the end of the ``with`` block stops.

    Args:
        subject: The subject, whose threads must be in the process's environment before it starts.
    """

    def __init__(self, subject: Subject) -> None:
        self._threads = subject.threads or 1
        self._process: subprocess.Popen[str] | None = None
        self._replies: queue.Queue[str | None] = queue.Queue()
        self._log: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        self._log.close()

    @property
    def pid(self) -> int:
        """Return the number of the running process."""
        if self._process is None:
            raise WorkerDiedError("it was never started")
        return self._process.pid

    def start(self) -> None:
        """Start a fresh interpreter that inherits only the environment."""
        threads = str(self._threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
            encoding="utf-8",
        )
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        if process.stdout is not None:
            for line in process.stdout:
                self._replies.put(line)
        self._replies.put(None)

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Send one request and wait for its reply; raises as :meth:`receive`."""
        self.send(request)
        return self.receive(timeout)

    def send(self, request: dict[str, Any]) -> None:
        """Send one request; a worker that has ended shows only when its reply is received."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()

    def receive(self, timeout: float) -> dict[str, Any]:
        """Wait for the reply to the last request.

        Raises:
            WorkerFailedError: The worker reports a failure.
            WorkerDiedError: The worker has ended, or did not answer within ``timeout`` seconds.
        """
        if self._process is None:
            raise WorkerDiedError("it was never started")
        try:
            line = self._replies.get(timeout=timeout)
        except queue.Empty:
            raise WorkerDiedError(f"no answer for {timeout:.0f} seconds") from None
        if line is None:
            raise WorkerDiedError(self._cause_of_death())
        reply = json.loads(line)
        if not reply.pop("ok"):
            raise WorkerFailedError(reply["kind"], reply["message"])
        return reply

    def _cause_of_death(self) -> str:
        """Return the exit status with the last line on standard error."""
        self.stop()
        code = None if self._process is None else self._process.returncode
        if code is not None and code < 0:
            ended = f"the process was ended by {_signal_name(-code)}"
            if -code == signal.SIGKILL:
                ended += " (the system does that when memory runs out)"
        else:
            ended = f"the process ended with exit code {code}"
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        return f"{ended}; its last line of output: {lines[-1]}" if lines else ended

    def hang_up(self) -> None:
        """Ask the process to end without waiting for it; several can end side by side."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # it is gone already
                self._process.stdin.close()

    def stop(self) -> None:
        """Stop the process: first by closing its input, then by force."""
        process = self._process
        if process is None:
            return
        self.hang_up()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return f"signal {number}"
