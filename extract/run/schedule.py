"""What is to be done next, and what a failure means: the queue of a run. Knows neither Ray nor a clock nor a store."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from .killers import KillerSearch
from .plan import RangeWork

MAX_LOSSES = 10
"""How often a range may lose its worker's node or be preempted without that counting as an attempt: a range whose rows
take whole nodes down must come to an end too."""

PROBE_S = 300.0
"""A probe of few rows is given this long, however quick ranges are: it is the first task of a new worker, which may
compile its teachers, and a storage may be away meanwhile. No row is to be blamed for that."""

TIMES_MEDIAN = 10.0
"""A probe may take so much longer than the same share of an ordinary range."""


class Failure(Enum):
    """How a task failed."""

    ERROR = auto()
    """An exception; the worker lives."""
    CRASH = auto()
    """The worker died, or hung and was killed."""
    LOSS = auto()
    """The worker was taken away: its node went, or was preempted."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Task:
    """Work for one worker.

    Attributes:
        range_id: which range.
        teachers: that lack it.
        attempt: counted from 1.
        killers: rows to be left out, with the reason.
        probe: rows to be tried without a commit, to see whether the worker survives; None for the range itself.
    """

    range_id: int
    teachers: tuple[str, ...]
    attempt: int = 1
    killers: Mapping[int, str] = field(default_factory=dict)
    probe: range | None = None


@dataclass(kw_only=True, frozen=True, slots=True)
class Limits:
    """When a task has taken too long, and how often one is tried.

    Attributes:
        attempts: of a range.
        stall_s: seconds without a sign of progress.
        range_s: seconds of a whole range; None for no bound.
        max_killers: rows of one range that may be left out because they kill.
    """

    attempts: int
    stall_s: float
    range_s: float | None = None
    max_killers: int = 16


@dataclass(slots=True)
class _Running:
    task: Task
    since: float
    last_step: float
    steps: int = -1


@dataclass(slots=True)
class _History:
    """What went wrong with a range so far."""

    losses: int = 0
    search: KillerSearch | None = None


class Schedule:
    """Ranges waiting, at work, and given up; one task per worker.

    A range that failed goes to the back, so that one which kills its workers does not hold up the others. After its
    last attempt a range whose worker died is searched for the rows that kill; then it is done without them.

    Args:
        work: ranges with something missing, in order.
        rows: of each range.
        limits: when to give up.

    Attributes:
        given_up: ranges that were, with the last error.
    """

    def __init__(self, work: Sequence[RangeWork], *, rows: Mapping[int, range], limits: Limits) -> None:
        self._waiting = deque(Task(range_id=item.range_id, teachers=item.teachers) for item in work)
        self._rows, self._limits = rows, limits
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
        """How many tasks could be at work at this moment."""
        return len(self._running) + (0 if self._stopping else len(self._waiting))

    @property
    def has_work(self) -> bool:
        """Whether a task waits to be taken."""
        return bool(self._waiting) and not self._stopping

    @property
    def at_work(self) -> frozenset[str]:
        """Workers that have a task."""
        return frozenset(self._running)

    def stop(self) -> None:
        """Begin nothing more; what is at work may finish."""
        self._stopping = True

    def take(self, worker: str, *, now: float) -> Task | None:
        """Return the next task and note that a worker has it; None if there is none."""
        if not self.has_work:
            return None
        task = self._waiting.popleft()
        self._running[worker] = _Running(task, since=now, last_step=now)
        return task

    def step(self, worker: str, steps: int, *, now: float) -> None:
        """Note how many steps a worker has done, which is progress if it is another number than before."""
        running = self._running.get(worker)
        if running and running.steps != steps:
            running.steps, running.last_step = steps, now

    def overdue(self, *, now: float) -> dict[str, str]:
        """Return the workers whose tasks take too long, and in what way."""
        found = {}
        for worker, running in self._running.items():
            bound = self._bound_s(running.task)
            if now - running.last_step > self._limits.stall_s:
                found[worker] = f"no sign of progress for {self._limits.stall_s:.0f} s"
            elif bound is not None and now - running.since > bound:
                found[worker] = f"not done within {bound:.0f} s"
        return found

    def task_of(self, worker: str) -> Task:
        """Return what a worker is at."""
        return self._running[worker].task

    def done(self, worker: str, *, now: float) -> Task:
        """Note that a worker did its task, and return that."""
        running = self._running.pop(worker)
        task, rows = running.task, len(self._rows[running.task.range_id])
        if task.probe is None:
            self._seconds_per_row.append((now - running.since) / max(rows, 1))
            self._histories.pop(task.range_id, None)
            return task
        search = self._history(task).search
        if search:
            search.survived()
            self._go_on_searching(task, search)
        return task

    def failed(self, worker: str, failure: Failure, why: str) -> Task:
        """Note that a worker's task failed, and return that; it is tried again, searched, or given up."""
        task = self._running.pop(worker).task
        history = self._history(task)
        if failure is Failure.LOSS and history.losses < MAX_LOSSES:
            history.losses += 1
            self._waiting.append(task)
        elif task.probe is not None:
            self._probe_failed(task, history, failure, why)
        elif task.killers:
            self._give_up(task, f"{why}, without {len(task.killers)} rows of which workers died")
        elif task.attempt < self._limits.attempts:
            self._waiting.append(Task(range_id=task.range_id, teachers=task.teachers, attempt=task.attempt + 1))
        elif failure is Failure.ERROR:
            self._give_up(task, why)
        else:
            history.search = KillerSearch(self._rows[task.range_id], max_killers=self._limits.max_killers)
            self._go_on_searching(task, history.search)
        return task

    def _probe_failed(self, task: Task, history: _History, failure: Failure, why: str) -> None:
        if failure is Failure.ERROR or history.search is None:
            self._give_up(task, f"workers died of it, and in search of the row: {why}")
            return
        history.search.died(why)
        self._go_on_searching(task, history.search)

    def _go_on_searching(self, task: Task, search: KillerSearch) -> None:
        rows, attempts = search.next(), self._limits.attempts
        if rows is not None:
            probe = Task(range_id=task.range_id, teachers=task.teachers, attempt=task.attempt, probe=rows)
            self._waiting.append(probe)
        elif search.gave_up:
            self._give_up(
                task, f"workers died of it {attempts} times, and of more than {self._limits.max_killers} of its rows"
            )
        elif not search.killers:
            self._give_up(task, f"workers died of it {attempts} times, and of none of its rows alone")
        else:
            killers = {
                row: f"{attempts} workers died of this row's range, and one of this row alone: {why}"
                for row, why in sorted(search.killers.items())
            }
            self._waiting.append(
                Task(range_id=task.range_id, teachers=task.teachers, attempt=task.attempt + 1, killers=killers)
            )

    def _give_up(self, task: Task, why: str) -> None:
        self.given_up[task.range_id] = why
        self._histories.pop(task.range_id, None)

    def _history(self, task: Task) -> _History:
        return self._histories.setdefault(task.range_id, _History())

    def _bound_s(self, task: Task) -> float | None:
        if task.probe is None:
            return self._limits.range_s
        if not self._seconds_per_row:
            return self._limits.range_s
        usual_s = statistics.median(self._seconds_per_row) * len(task.probe)
        bound = max(PROBE_S, TIMES_MEDIAN * usual_s)
        return bound if self._limits.range_s is None else min(bound, self._limits.range_s)
