"""Measures the memory that this process holds on a device: now, and at most since a moment."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import resource
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


def held_bytes(device: str) -> int:
    """Return the bytes held now, after `give_back`: tensors on a GPU, else the process's resident memory."""
    give_back()
    if device == "cuda":
        return int(torch.cuda.memory_allocated())
    return _status_bytes("VmRSS") if STATUS.is_file() else peak_bytes(device)


def give_back() -> None:
    """Return memory to the system that the process only keeps for later, so that it does not count as held."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # glibc alone has it


def begin_peak(device: str) -> None:
    """Let `peak_bytes` count from here on, after `give_back`, where the system can."""
    give_back()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif RESET.exists():
        RESET.write_text("5")  # Linux: forget the largest resident size so far


def peak_bytes(device: str) -> int:
    """Return the most bytes held since `begin_peak`; since the process began where the system cannot forget."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    if STATUS.is_file():
        return _status_bytes("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status_bytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0
