"""The work that a worker is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeAlias

from store.format.pixels import PixelReceipt
from store.format.records import Receipt

TASKS_AT_ONCE = 3
"""Ranges in a worker: one is decoded, one is on the device, one is committed."""


CLOSE_S = 10.0
"""An end waits at most so long for a commit; what is not committed by then is done by the next run."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Task:
    """A range under some teachers.

    Attributes:
        teachers: the teachers that lack the range.
        attempt: counted from 1.
        killers: rows to leave out, with the reason.
        probe: rows to try without a commit, to see whether the worker survives; None for the range itself.
    """

    range_id: int
    teachers: tuple[str, ...]
    attempt: int = 1
    killers: Mapping[int, str] = field(default_factory=dict)
    probe: range | None = None


class TaskDroppedError(Exception):
    """The run is to end, and nothing of the task was committed."""


Made: TypeAlias = Receipt | PixelReceipt
"""The commit of what was made of a range."""


class RangeWorker(Protocol):
    """Does tasks in this process. It is a context manager; its end drops what is not being committed."""

    def submit(self, task: Task) -> Future[Any]:
        """Begin a task; its result is a list of `Made`. Tasks are done in order."""

    def drop(self) -> None:
        """End the tasks whose commit has not begun, with a TaskDroppedError."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: Any) -> None: ...
