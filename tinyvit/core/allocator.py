"""A setting of glibc's memory allocator: big activations are kept instead of returned after every
operator.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import platform

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def tune_allocator() -> str:
    """Raise glibc's ``mmap`` and ``trim`` thresholds for this process.

    By default glibc returns every large activation to the kernel and requests it again soon after.
    TinyViT at batch 16 spends up to half of its time there. Arithmetic stays the same. Commands
    call this function; importing the library does not.

    Returns:
        ``"glibc-tuned"`` when the thresholds are set, else ``"default (REASON)"``.
    """
    if platform.system() != "Linux":
        return f"default (no glibc on {platform.system()})"
    libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    if not hasattr(libc, "gnu_get_libc_version"):
        return "default (the C library is not glibc)"
    done = libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30) and libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    return "glibc-tuned" if done else "default (mallopt refused the thresholds)"
