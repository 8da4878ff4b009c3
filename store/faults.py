"""A place for tests to kill the program: at a named step of a write, by the environment."""

from __future__ import annotations

import os
import signal
from collections import Counter

KILL_AT = "MMKD_KILL_AT"
"""Environment variable: ``STEP`` or ``STEP:N`` kills the process when it reaches that step the first or N-th time."""

_reached: Counter[str] = Counter()


def reached(step: str) -> None:
    """Say that a step of a write is reached; nothing happens unless the environment names it."""
    wanted = os.environ.get(KILL_AT)
    if wanted is None:
        return
    _reached[step] += 1
    name, _, number = wanted.partition(":")
    if name == step and _reached[step] == int(number or 1):
        os.kill(os.getpid(), signal.SIGKILL)
