"""The queue of a run: chooses the next task and decides what a failure means. Knows no Ray, no clock and no store."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from extract.config import ExtractSection
from store.errors import ExtractionError, MMKDError

from .killers import KillerSearch
from .plan import RangeWork

MAX_LOSSES = 10
"""A range may lose its worker's node or be preempted so often before that counts as an attempt. The bound exists
because a range's rows may take whole nodes down."""

PROBE_S = 300.0
"""A probe of few rows has at least this long. It is the first task of a new worker, which may compile its teachers, and
the storage may be away meanwhile; no row is to blame for that."""

TIMES_MEDIAN = 10.0
"""A probe may take so many times the median time of as many rows of ordinary ranges."""

BROKEN_DEVICE = "CUDA error"
"""Prefix of torch errors after which the CUDA context is unusable. Errors for lack of memory begin differently."""

LOST_STARTING = 3
"""So many workers in a row may be lost before one is ready. A dying node takes the workers just sent to it along."""

RESTART_S, MAX_DOUBLINGS = 2.0, 6
"""Seconds until the next worker is started after one was lost; doubled by each further loss, at most so often."""


class Failure(Enum):
    """The kind of a task's failure."""

    ERROR = auto()
    """An exception; the worker lives."""
    CRASH = auto()
    """The worker died, or hung and was killed."""
    LOSS = auto()
    """The worker was taken away: its node went, or was preempted."""


def failure_of(error: BaseException) -> tuple[Failure, str]:
    """Return what an exception in a worker means, and its reason in one line.

    After a CRASH the worker's process cannot be used any longer. An `MMKDError`, the user's mistake, is raised again.
    """
    if isinstance(error, MMKDError):
        raise error
    lines = str(error).strip().splitlines() or [""]
    # Torch names the error first and adds advice; a traceback names it in the last line.
    broken = next((line for line in lines if BROKEN_DEVICE in line), None)
    return (Failure.CRASH if broken else Failure.ERROR), f"{type(error).__name__}: {broken or lines[-1]}"


@dataclass(kw_only=True, frozen=True, slots=True)
class Task:
    """Work for one worker.

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


@dataclass(slots=True)
class _Running:
    task: Task
    since: float
    last_step: float
    steps: int = -1


@dataclass(slots=True)
class _History:
    """A range's failures so far."""

    losses: int = 0
    search: KillerSearch | None = None


class Schedule:
    """The ranges that wait, that are at work, and that were given up; one task per worker.

    A range that failed goes to the back, so that one which kills its workers does not hold up the others. After its
    last attempt a range whose worker died is searched for the rows that kill; then it is done without them.

    Attributes:
        given_up: the last error of each range that was given up.
    """

    def __init__(self, work: Sequence[RangeWork], *, rows: Mapping[int, range], settings: ExtractSection) -> None:
        self._waiting = deque(Task(range_id=item.range_id, teachers=item.teachers) for item in work)
        self._rows, self._settings = rows, settings
        self._running: dict[str, _Running] = {}
        self._histories: dict[int, _History] = {}
        self._seconds_per_row: deque[float] = deque(maxlen=100)
        self._stopping = False
        self.given_up: dict[int, str] = {}

    @property
    def over(self) -> bool:
        """Whether nothing is at work and nothing is to be begun."""
        return not self._running and (self._stopping or not self._waiting)

    @property
    def stopped(self) -> bool:
        """Whether it was stopped before all was done."""
        return self._stopping and bool(self._waiting)

    @property
    def outstanding(self) -> int:
        """Number of tasks that could be at work now."""
        return len(self._running) + (0 if self._stopping else len(self._waiting))

    @property
    def at_work(self) -> frozenset[str]:
        """Workers that have a task."""
        return frozenset(self._running)

    def stop(self) -> None:
        """Begin nothing more; tasks at work may finish."""
        self._stopping = True

    def take(self, worker: str, *, now: float) -> Task | None:
        """Return the next task and note that the worker has it; None if there is none."""
        if self._stopping or not self._waiting:
            return None
        task = self._waiting.popleft()
        self._running[worker] = _Running(task, since=now, last_step=now)
        return task

    def step(self, worker: str, steps: int, *, now: float) -> None:
        """Note how many steps a worker has done; a new number is progress."""
        running = self._running.get(worker)
        if running and running.steps != steps:
            running.steps, running.last_step = steps, now

    def overdue(self, *, now: float) -> dict[str, str]:
        """Return the workers whose tasks take too long, with the reason."""
        found = {}
        for worker, running in self._running.items():
            bound = self._bound_s(running.task)
            if now - running.last_step > self._settings.stall_timeout_s:
                found[worker] = f"no sign of progress for {self._settings.stall_timeout_s:.0f} s"
            elif bound is not None and now - running.since > bound:
                found[worker] = f"not done within {bound:.0f} s"
        return found

    def task_of(self, worker: str) -> Task:
        """Return the task of a worker."""
        return self._running[worker].task

    def done(self, worker: str, *, now: float) -> None:
        """Note that a worker did its task."""
        running = self._running.pop(worker)
        task, rows = running.task, len(self._rows[running.task.range_id])
        if task.probe is None:
            self._seconds_per_row.append((now - running.since) / max(rows, 1))
            self._histories.pop(task.range_id, None)
        elif search := self._history(task).search:
            search.survived()
            self._go_on_searching(task, search)

    def failed(self, worker: str, failure: Failure, why: str) -> None:
        """Try a worker's task again, search its range for killer rows, or give it up."""
        task = self._running.pop(worker).task
        history = self._history(task)
        if failure is Failure.LOSS and history.losses < MAX_LOSSES:
            history.losses += 1
            self._waiting.append(task)
        elif task.probe is not None:
            self._probe_failed(task, history, failure, why)
        elif task.killers:
            self._give_up(task, f"{why}, without {len(task.killers)} rows of which workers died")
        elif task.attempt < self._settings.attempts:
            self._waiting.append(replace(task, attempt=task.attempt + 1))
        elif failure is Failure.ERROR:
            self._give_up(task, why)
        else:
            history.search = KillerSearch(self._rows[task.range_id], max_killers=self._settings.max_killer_rows)
            self._go_on_searching(task, history.search)

    def _probe_failed(self, task: Task, history: _History, failure: Failure, why: str) -> None:
        if failure is Failure.ERROR or history.search is None:
            self._give_up(task, f"workers died of it, and in search of the row: {why}")
            return
        history.search.died(why)
        self._go_on_searching(task, history.search)

    def _go_on_searching(self, task: Task, search: KillerSearch) -> None:
        rows, attempts = search.next(), self._settings.attempts
        if rows is not None:
            self._waiting.append(replace(task, probe=rows))
        elif search.gave_up:
            self._give_up(
                task,
                f"workers died of it {attempts} times, and of more than {self._settings.max_killer_rows} of its rows",
            )
        elif not search.killers:
            self._give_up(task, f"workers died of it {attempts} times, and of none of its rows alone")
        else:
            killers = {
                row: f"{attempts} workers died of this row's range, and one of this row alone: {why}"
                for row, why in sorted(search.killers.items())
            }
            self._waiting.append(replace(task, attempt=task.attempt + 1, killers=killers, probe=None))

    def _give_up(self, task: Task, why: str) -> None:
        self.given_up[task.range_id] = why
        self._histories.pop(task.range_id, None)

    def _history(self, task: Task) -> _History:
        return self._histories.setdefault(task.range_id, _History())

    def _bound_s(self, task: Task) -> float | None:
        if task.probe is None or not self._seconds_per_row:
            return self._settings.range_timeout_s
        usual_s = statistics.median(self._seconds_per_row) * len(task.probe)
        bound = max(PROBE_S, TIMES_MEDIAN * usual_s)
        return bound if self._settings.range_timeout_s is None else min(bound, self._settings.range_timeout_s)


class Restarts:
    """When another worker may be started after some were lost before they were ready, and when to give up."""

    def __init__(self) -> None:
        self._lost, self._not_before = 0, float("-inf")

    def allowed(self, *, now: float) -> bool:
        """Whether a worker may be started now."""
        return now >= self._not_before

    def ready(self) -> None:
        """Note that a worker became ready."""
        self._lost = 0

    def lost(self, failure: Failure, why: str, *, others_work: bool, now: float) -> None:
        """Note that a worker was lost before it was ready.

        Raises:
            ExtractionError: too many in a row were lost, and no other worker works.
        """
        self._lost += failure is not Failure.LOSS
        # A little later each time, until the cluster knows of a node that is gone.
        self._not_before = now + RESTART_S * 2 ** min(self._lost, MAX_DOUBLINGS)
        # While others work, the node is to blame: the run tries again and meanwhile goes on without these workers.
        if self._lost >= LOST_STARTING and not others_work:
            raise ExtractionError(
                f"{self._lost} workers in a row were lost while they loaded the teachers; the last: {why}",
                hint="python -m extract run --local shows the error without Ray; most often memory is too small",
            )
