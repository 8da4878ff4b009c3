"""The queue of a run: chooses the next task and decides what a failure means. Knows no Ray, no clock and no store."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from extract.config import ExtractSection
from extract.worker.task import TASKS_AT_ONCE, Task
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

BROKEN_DEVICE, NO_MEMORY = "CUDA error", "CUDA error: out of memory"
"""Prefix of torch errors after which the CUDA context is unusable. Lack of memory on the card begins differently; lack
of pinned memory on the host begins so and breaks nothing."""

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
    broken = next((line for line in lines if BROKEN_DEVICE in line and NO_MEMORY not in line), None)
    return (Failure.CRASH if broken else Failure.ERROR), f"{type(error).__name__}: {broken or lines[-1]}"


Key = tuple[int, tuple[str, ...]]
"""A range and teachers: no two tasks have the same."""


@dataclass(slots=True)
class _Running:
    task: Task
    worker: str
    since: float


@dataclass(slots=True)
class _Progress:
    """A worker's steps as far as they are known."""

    at: float
    steps: int = -1


@dataclass(slots=True)
class _History:
    """A task's failures so far.

    Attributes:
        pardons: attempts that do not count, because another task may be to blame.
    """

    losses: int = 0
    pardons: int = 0
    search: KillerSearch | None = None


class Schedule:
    """The tasks that wait, that are at work, and that were given up.

    A worker has several tasks at once, so that it never waits between them. A task that failed goes to the back, so
    that one which kills its workers does not hold up the others. If a worker with several tasks dies, any of them may
    be to blame: each is tried again alone in its worker. After its last attempt a range whose worker died is searched
    for the rows that kill; then it is done without them.

    Attributes:
        given_up: the last error of each range that was given up.
    """

    def __init__(self, work: Sequence[RangeWork], *, rows: Mapping[int, range], settings: ExtractSection) -> None:
        self._waiting = deque(Task(range_id=item.range_id, teachers=item.teachers) for item in work)
        self._rows, self._settings = rows, settings
        self._running: dict[Key, _Running] = {}
        self._progress: dict[str, _Progress] = {}
        self._histories: dict[Key, _History] = {}
        self._parts: set[Key] = set()
        self._seconds_per_row: deque[float] = deque(maxlen=100)
        self._stopping = False
        self.given_up: dict[int, str] = {}

    @property
    def over(self) -> bool:
        """Return whether nothing is at work and nothing is to be begun."""
        return not self._running and (self._stopping or not self._waiting)

    @property
    def stopped(self) -> bool:
        """Return whether it was stopped before all was done."""
        return self._stopping and bool(self._waiting)

    @property
    def stopping(self) -> bool:
        """Return whether it was asked to stop."""
        return self._stopping

    @property
    def outstanding(self) -> int:
        """Number of workers that could have a task now."""
        return len(self.at_work) + self.waiting

    @property
    def waiting(self) -> int:
        """Number of tasks that are to be begun."""
        return 0 if self._stopping else len(self._waiting)

    @property
    def at_work(self) -> frozenset[str]:
        """Workers that have a task."""
        return frozenset(running.worker for running in self._running.values())

    def stop(self) -> None:
        """Begin nothing more; tasks at work may finish."""
        self._stopping = True

    def take(self, worker: str, *, now: float, workers: int = 1) -> Task | None:
        """Return the next task and note that the worker has it; None if there is none for it now.

        Args:
            workers: number of workers that take tasks. When fewer tasks than these wait, a worker that has one gets no
                other, and ranges are split by teachers, so that all workers are busy to the end.
        """
        if self._stopping or not self._waiting:
            return None
        here = self.tasks_of(worker)
        if here and (
            len(here) >= TASKS_AT_ONCE
            or len(self._waiting) < workers
            or any(self._is_alone(task) for task in (*here, self._waiting[0]))
        ):
            return None
        task = self._waiting.popleft()
        if task.attempt == 1 and not self._is_alone(task) and _key(task) not in self._parts:
            task, *others = _split(task, -(-workers // (len(self._waiting) + 1)))
            self._waiting.extendleft(reversed(others))
            self._parts |= {_key(part) for part in (task, *others) if others}
        self._running[_key(task)] = _Running(task, worker, since=now)
        if not here:
            self._progress[worker] = _Progress(now)
        return task

    def step(self, worker: str, steps: int, *, now: float) -> None:
        """Note how many steps a worker has done; a new number is progress."""
        progress = self._progress.get(worker)
        if progress and progress.steps != steps:
            progress.steps, progress.at = steps, now

    def overdue(self, *, now: float) -> dict[str, str]:
        """Return the workers whose tasks take too long, with the reason."""
        found = {}
        for worker in self.at_work:
            first = self._first_of(worker)
            bound = self._bound_s(first.task)
            if now - self._progress[worker].at > self._settings.stall_timeout_s:
                found[worker] = f"no sign of progress for {self._settings.stall_timeout_s:.0f} s"
            elif bound is not None and now - first.since > bound:
                found[worker] = f"not done within {bound:.0f} s"
        return found

    def tasks_of(self, worker: str) -> list[Task]:
        """Return the tasks of a worker, the oldest first."""
        return [running.task for running in self._running.values() if running.worker == worker]

    def done(self, task: Task, *, now: float) -> None:
        """Note that a worker did a task."""
        running, rows = self._pop(task, now=now), len(self._rows[task.range_id])
        if task.probe is None:
            self._seconds_per_row.append((now - running.since) / max(rows, 1))
            self._histories.pop(_key(task), None)
        elif search := self._history(task).search:
            search.survived()
            self._go_on_searching(task, search)

    def give_back(self, task: Task, *, now: float) -> None:
        """Let a task wait again that a worker dropped."""
        self._pop(task, now=now)
        self._waiting.appendleft(task)

    def failed(self, task: Task, why: str, *, now: float) -> None:
        """Try a task again, whose worker lives, or give it up."""
        self._pop(task, now=now)
        self._deal_with(task, Failure.ERROR, why, shared=False)

    def lost(self, worker: str, failure: Failure, why: str) -> None:
        """Try the tasks of a worker that is gone again, search their ranges for killer rows, or give them up."""
        tasks = self.tasks_of(worker)
        for task in tasks:
            del self._running[_key(task)]
        for task in tasks:
            self._deal_with(task, failure, why, shared=failure is Failure.CRASH and len(tasks) > 1)

    def _deal_with(self, task: Task, failure: Failure, why: str, *, shared: bool) -> None:
        history = self._history(task)
        if failure is Failure.LOSS and history.losses < MAX_LOSSES:
            history.losses += 1
            self._waiting.append(task)
        elif task.probe is not None:
            self._probe_failed(task, history, failure, why)
        elif task.killers:
            self._give_up(task, f"{why}, without {len(task.killers)} rows of which workers died")
        elif shared or task.attempt - history.pardons < self._settings.attempts:
            history.pardons += shared
            self._waiting.append(replace(task, attempt=task.attempt + 1))
        elif failure is Failure.ERROR:
            self._give_up(task, why)
        else:
            history.search = KillerSearch(self._rows[task.range_id], max_killers=self._settings.max_killer_rows)
            self._go_on_searching(task, history.search)

    def _pop(self, task: Task, *, now: float) -> _Running:
        running = self._running.pop(_key(task))
        if self.tasks_of(running.worker):  # the next one's time begins: before it waited for this one
            first = self._first_of(running.worker)
            first.since = max(first.since, now)
        return running

    def _first_of(self, worker: str) -> _Running:
        return next(running for running in self._running.values() if running.worker == worker)

    def _is_alone(self, task: Task) -> bool:
        """Return whether no other task may be in the same worker."""
        history = self._histories.get(_key(task))
        return task.probe is not None or bool(task.killers) or bool(history and history.pardons)

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
        self._histories.pop(_key(task), None)

    def _history(self, task: Task) -> _History:
        return self._histories.setdefault(_key(task), _History())

    def _bound_s(self, task: Task) -> float | None:
        if task.probe is None or not self._seconds_per_row:
            return self._settings.range_timeout_s
        usual_s = statistics.median(self._seconds_per_row) * len(task.probe)
        bound = max(PROBE_S, TIMES_MEDIAN * usual_s)
        return bound if self._settings.range_timeout_s is None else min(bound, self._settings.range_timeout_s)


def _key(task: Task) -> Key:
    return task.range_id, task.teachers


def _split(task: Task, parts: int) -> list[Task]:
    """Return a range's task as several, each with some of its teachers."""
    parts = min(parts, len(task.teachers))
    return [replace(task, teachers=task.teachers[part::parts]) for part in range(parts)]


class Restarts:
    """Decides when another worker may be started after some were lost before they were ready, and when to give up."""

    def __init__(self) -> None:
        self._lost, self._not_before = 0, float("-inf")

    def allowed(self, *, now: float) -> bool:
        """Return whether a worker may be started now."""
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
                f"{self._lost} workers in a row were lost before they were ready; the last: {why}",
                hint="the same command with --local shows the error without Ray; most often memory is too small",
            )
