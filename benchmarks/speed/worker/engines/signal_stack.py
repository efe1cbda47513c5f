"""Keep the alternate signal stack of a thread around a library that replaces it.

OpenVINO 2026.4 gives the thread that loads its CPU plugin its own stack for signals. It frees that
stack with the plugin and does not restore the earlier one, so that the next signal with a handler
ends the process. This happened as a segmentation fault: ``torch.utils.data`` had installed its
handler of ``SIGCHLD``, and then a child process ended.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    _fields_ = [("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Restore this thread's alternate signal stack at the end (on Linux only)."""
    if not sys.platform.startswith("linux"):
        yield
        return
    libc, before = ctypes.CDLL(None), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


def signal_stack() -> tuple[int, int]:
    """Return address and size of this thread's alternate signal stack, zeros without one."""
    current = _Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(current))
    return current.pointer or 0, current.size
