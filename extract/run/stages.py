"""Measures a range's seconds by stage, as receipts record them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from store.format.records import Receipt

THREAD_STAGES = ("read", "decode", "fit")
"""Stages of the decoding threads; their seconds are added up and overlap with each other and with the stages below."""

SHARED_STAGES = ("wait_for_images", "forward_image", "tokenize", "forward_text", "other")
"""Stages of the worker itself, one at a time. All teachers of a range share them, so each of its receipts has the same.

Together with ``write``, which each unit has for itself, they add up to the wall time of the range.
"""


class Clock:
    """Adds up seconds by stage; calls ``on_step`` after each timed block, to show progress."""

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
        """Add the seconds since a reading of ``time.perf_counter`` and return a new reading. Thread-safe."""
        now = time.perf_counter()
        with self._lock:
            self._seconds[stage] += now - began
        return now

    def timings(self) -> dict[str, float]:
        """Return the seconds so far of every stage except ``write``, for a receipt."""
        wall = time.perf_counter() - self._began
        with self._lock:
            seconds = self._seconds.copy()
        stages = {stage: seconds[stage] for stage in (*THREAD_STAGES, *SHARED_STAGES)}
        stages["other"] = wall - seconds["write"] - sum(stages[stage] for stage in SHARED_STAGES)
        return {stage: round(value, 4) for stage, value in stages.items()}


def seconds_of_range(receipts: Sequence[Receipt]) -> dict[str, float]:
    """Return the seconds by stage of one attempt at a range, from its receipts.

    The teachers share all stages except ``write``. Each receipt has their seconds up to its commit: the largest counts.
    """
    names = dict.fromkeys(stage for receipt in receipts for stage in receipt.timings_s)
    values = {stage: [receipt.timings_s.get(stage, 0.0) for receipt in receipts] for stage in names}
    return {stage: sum(of) if stage == "write" else max(of) for stage, of in values.items()}
