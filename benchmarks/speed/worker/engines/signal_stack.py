"""The alternate signal stack of a thread, kept as it was around a library that exchanges it.

OpenVINO 2026.4 gives the thread that loads its CPU plugin a stack of its own for signals, and frees it with the plugin
without putting the earlier one back. The next signal with a handler then ends the process: seen as a segmentation
fault when a child process ended after ``torch.utils.data`` had installed its handler of ``SIGCHLD``.
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
    """Put this thread's alternate signal stack back at the end; on other systems than Linux nothing is done."""
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
    """Address and size of this thread's alternate signal stack; zeros where there is none."""
    current = _Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(current))
    return current.pointer or 0, current.size
