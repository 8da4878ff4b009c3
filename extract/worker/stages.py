"""Measures a range's seconds by stage, as receipts record them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

from store.format.stages import DEVICE_STAGES, HOST_STAGES


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
