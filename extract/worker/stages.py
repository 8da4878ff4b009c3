"""Measures a range's seconds by stage, as receipts record them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from store.format.records import RangeReceipt

HOST_STAGES = ("read", "decode", "fit", "tokenize", "collect")
"""Stages of the host's threads. Their seconds are added up; they overlap with each other and with the stages below."""

WAITS = ("wait_for_range", "wait_for_images", "wait_for_tokens")
"""Time in which the device had nothing to do: no range was given, or its images or tokens were not made yet."""

DEVICE_STAGES = (*WAITS, "forward_image", "forward_text", "other")
"""Stages of the device, one at a time: together they are the time from the end of the range before to its own end.

All teachers of a range share them and HOST_STAGES, so that each of its receipts has the same; each unit has its own
``write``, which is done while the device works on later ranges.
"""


class Clock:
    """Adds up seconds by stage, and means of queue lengths; calls ``on_step`` at each addition, to show progress."""

    def __init__(self, on_step: Callable[[], object]) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._lengths: dict[str, list[int]] = defaultdict(list)
        self._on_step = on_step
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a block. Thread-safe, as all of this class."""
        began = time.perf_counter()
        yield
        self.add(stage, time.perf_counter() - began)

    def add(self, stage: str, seconds: float) -> None:
        """Add seconds to a stage."""
        with self._lock:
            self._seconds[stage] += seconds
        self._on_step()

    def queued(self, queue: str, length: int) -> None:
        """Note how much waited in a queue."""
        with self._lock:
            self._lengths[queue].append(length)

    def timings(self) -> dict[str, float]:
        """Return the seconds so far of every stage except ``write``, for a receipt."""
        with self._lock:
            return {stage: round(self._seconds[stage], 4) for stage in (*HOST_STAGES, *DEVICE_STAGES)}

    def queues(self) -> dict[str, float]:
        """Return the mean length of each queue, for a receipt."""
        with self._lock:
            return {queue: round(sum(lengths) / len(lengths), 2) for queue, lengths in self._lengths.items()}


def seconds_of_range(receipts: Sequence[RangeReceipt]) -> dict[str, float]:
    """Return the seconds by stage of one attempt at a range, from its receipts.

    The teachers share all stages except ``write``. Each receipt has their seconds up to its commit: the largest counts.
    """
    names = dict.fromkeys(stage for receipt in receipts for stage in receipt.timings_s)
    values = {stage: [receipt.timings_s.get(stage, 0.0) for receipt in receipts] for stage in names}
    return {stage: sum(of) if stage == "write" else max(of) for stage, of in values.items()}
