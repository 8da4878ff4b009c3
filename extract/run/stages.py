"""Where the time of a range goes: seconds by stage, as receipts record them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

THREAD_STAGES = ("read", "decode", "fit")
"""Seconds of the decoding threads, added up: they overlap each other and the stages below."""

SHARED_STAGES = ("wait_for_images", "forward_image", "forward_text", "other")
"""Seconds of the worker itself, one stage at a time, for all teachers of a range: each of its receipts has the same.

With ``write``, which is each unit's own, they add up to the wall time of the range.
"""


class Clock:
    """Adds up seconds by stage.

    Args:
        on_step: called whenever something was finished, which shows that work goes on.
    """

    def __init__(self, on_step: Callable[[], object]) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._on_step = on_step
        self._began = time.perf_counter()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a block."""
        began = time.perf_counter()
        yield
        self.add(stage, began)
        self._on_step()

    def add(self, stage: str, began: float) -> float:
        """Add the seconds since a reading of ``time.perf_counter`` and return one of now; any thread may."""
        now = time.perf_counter()
        with self._lock:
            self._seconds[stage] += now - began
        return now

    def timings(self) -> dict[str, float]:
        """Return the seconds until now of every stage but the unit's own write, for its receipt."""
        wall = time.perf_counter() - self._began
        with self._lock:
            seconds = self._seconds.copy()
        stages = {stage: seconds[stage] for stage in (*THREAD_STAGES, *SHARED_STAGES)}
        stages["other"] = wall - seconds["write"] - sum(stages[stage] for stage in SHARED_STAGES)
        return {stage: round(value, 4) for stage, value in stages.items()}
