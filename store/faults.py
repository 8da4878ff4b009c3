"""Hooks by which tests kill or break the program: at a step of a write or at a pair that the environment names."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter

KILL_AT = "MMKD_KILL_AT"
"""Environment variable: ``STEP`` or ``STEP:N`` kills the process when it reaches that step the first or N-th time."""

STOP_AT = "MMKD_STOP_AT"
"""Environment variable: like `KILL_AT`, but the process stops, until it gets SIGCONT."""

MISBEHAVE_AT = "MMKD_MISBEHAVE_AT"
"""Environment variable: ``exit:KEY`` ends the process at the image of that pair, ``hang:KEY`` never returns from it, as
a decoder of damaged images may do. ``device:KEY`` fails there and at each later image of the process, as a GPU does
after a fault. Commas separate several of them.
"""

_reached: Counter[str] = Counter()
_broken = threading.Event()


def reached(step: str) -> None:
    """Mark a step of a write; does nothing unless the environment names a step."""
    wanted = {name: os.environ.get(name) for name in (KILL_AT, STOP_AT)}
    if not any(wanted.values()):
        return
    _reached[step] += 1
    for variable, end in ((KILL_AT, signal.SIGKILL), (STOP_AT, signal.SIGSTOP)):
        name, _, number = (wanted[variable] or "").partition(":")
        if name == step and _reached[step] == int(number or 1):
            os.kill(os.getpid(), end)


def misbehave(key: str) -> None:
    """Mark that a pair's image is about to be decoded; does nothing unless the environment names the pair."""
    wanted = os.environ.get(MISBEHAVE_AT)
    if wanted is None:
        return
    if f"exit:{key}" in wanted.split(","):
        os._exit(1)
    if f"hang:{key}" in wanted.split(","):
        threading.Event().wait()
    if f"device:{key}" in wanted.split(","):
        _broken.set()
    if _broken.is_set():
        raise RuntimeError("CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA` to see where.")
