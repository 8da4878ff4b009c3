"""What a worker is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TASKS_AT_ONCE = 3
"""Ranges in a worker: one is decoded, one is on the device, one is committed."""


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
