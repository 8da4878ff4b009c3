"""A device as the worker sees it: arrays travel to it and back without a wait, and moments on it are marked.

On a card nothing here waits for the card but `Mark.wait`. On the CPU everything is done when the call returns.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

import torch
from torch import Tensor


class Mark:
    """A moment in a device's work.

    Args:
        event: marks it on a card; the present moment counts on the CPU.
    """

    def __init__(self, event: torch.cuda.Event | None = None) -> None:
        self._event, self._now = event, time.perf_counter()

    def wait(self) -> None:
        """Wait until the device has come so far.

        Raises:
            RuntimeError: the device failed before.
        """
        if self._event is not None:
            self._event.synchronize()

    def seconds_since(self, earlier: Mark) -> float:
        """Return the device's seconds between two of its marks; wait for this one first."""
        if self._event is None or earlier._event is None:
            return self._now - earlier._now
        return float(earlier._event.elapsed_time(self._event)) / 1000


class Device:
    """The CPU or a card.

    Args:
        name: ``cpu`` or ``cuda``.
    """

    def __init__(self, name: str) -> None:
        self.name, self._is_card = name, name == "cuda"
        self._free: deque[Tensor] = deque()  # one thread takes, another gives

    def staging(self, *shape: int) -> Tensor:
        """Return uint8 memory of any content, from which a copy to the device needs no wait (pinned for a card)."""
        for _ in range(len(self._free)):
            free = self._free.popleft()
            if free.shape == shape:
                return free
            self._free.append(free)
        if self._free:
            self._free.popleft()  # so that there are never more than were in use at once
        # PyTorch reuses pinned memory, and not before the copies out of it have ended.
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self._is_card)

    def free(self, staging: Iterable[Tensor]) -> None:
        """Take memory of `staging` back that no thread uses any more: the system clears each page of what is new."""
        if not self._is_card:
            self._free.extend(staging)

    def send(self, host: Tensor) -> Tensor:
        """Return a tensor on the device; the caller keeps ``host``, if it is of `staging`, until a later mark."""
        if self._is_card and not host.is_pinned():
            host = host.pin_memory()
        return host.to(self.name, non_blocking=True)

    def fetch(self, result: Tensor) -> Tensor:
        """Return a tensor on the host, whose content is there after a later mark."""
        if not self._is_card:
            return result
        host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        return host.copy_(result, non_blocking=True)

    def mark(self) -> Mark:
        """Mark the end of what was asked of the device so far."""
        if not self._is_card:
            return Mark()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return Mark(event)
