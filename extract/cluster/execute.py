"""The driver's loop on Ray: who gets which range, and what it means when an actor fails, dies, hangs or is taken away.

Only an actor that has said it is ready is given work: one that still waits for a place in the cluster would swallow a
range and never return it.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from extract.run.driver import BROKEN_DEVICE, Job, committed_by_run, log_failure, schedule_of
from extract.run.plan import RangeWork
from extract.run.schedule import Failure, Schedule
from extract.run.tracker import Tracker
from store.errors import ExtractionError, MMKDError
from store.format.records import Receipt

from .actor import room, wanted
from .connect import connected
from .fleet import Fleet, Kind
from .metrics import RunMetrics

log = logging.getLogger(__name__)

TICK_S = 0.5
"""Between two looks at clocks while no actor answers."""

LOOK_S = 2.0
"""Between two counts of the cluster's nodes."""

INQUEST_S = 30.0
"""An actor that is out of reach may be dead, or its node; which, the cluster knows within seconds."""

LOST_STARTING = 3
"""So many workers in a row may be lost before one is ready: a node that dies takes what was just sent to it along."""

ASK_AGAIN_S = 1.0
"""Between two inquests."""

MAX_DOUBLINGS = 6
"""Of the time until another worker is started in the place of those lost: two minutes at most."""

_DETAIL = re.compile(r"exit detail: (.+?)(?:\. |$)")


def execute_on_ray(job: Job, work: Sequence[RangeWork], tracker: Tracker) -> None:
    """Do every range on a Ray cluster: the one that RAY_ADDRESS or a Ray job names, else a local one."""
    with connected(job.settings):
        Driver(job, schedule_of(job, work), tracker).drain()


class Driver:
    """Hands ranges to actors until all are done or given up.

    Args:
        job: what actors are started with.
        schedule: the ranges.
        tracker: is told of receipts and workers, and says when to stop.
        clock: seconds.
    """

    def __init__(
        self, job: Job, schedule: Schedule, tracker: Tracker, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._job, self._schedule, self._tracker, self._clock = job, schedule, tracker, clock
        self._fleet, self._metrics = Fleet(job), RunMetrics(job.run_id)
        self._lost_while_starting = 0
        self._start_again = self._placed_last = clock()
        self._looked, self._room = float("-inf"), 0

    def drain(self) -> None:
        """Do all there is to do.

        Raises:
            ExtractionError: the cluster has no room for a worker, or workers die while they load the teachers.
        """
        self._say_what_is_lacking()
        every_s = min(10.0, self._job.settings.stall_timeout_s / 5)
        while not self._schedule.over:
            self._grow()
            for name in self._fleet.in_stage("idle"):
                task = self._schedule.take(name, now=self._clock())
                if task is not None:
                    self._fleet.run(name, task, now=self._clock())
            self._tell()
            self._fleet.ask_steps(now=self._clock(), every_s=every_s)
            for kind, name, call in self._fleet.answers(timeout_s=min(TICK_S, every_s)):
                self._collect(kind, name, call)
            self._watch()
            if self._tracker.stop_requested:
                self._schedule.stop()
        self._tracker.outcome.stopped = self._schedule.stopped
        self._tell()

    def _grow(self) -> None:
        """Start as many actors as there is work and room for."""
        now = self._clock()
        if now - self._looked >= LOOK_S:
            self._looked, self._room = now, room(self._job)
        # One at least, even where there is no room: a cluster that grows by itself does so for those that wait.
        target = min(self._job.settings.workers or max(1, self._room), self._schedule.outstanding)
        if now < self._start_again:
            return
        for _ in range(target - self._fleet.count("placing", "loading", "idle", "busy")):
            self._fleet.start(now=now)

    def _collect(self, kind: Kind, name: str, call: Any) -> None:
        now = self._clock()
        try:
            answer = ray.get(call)
        except RayTaskError as error:
            if isinstance(error.cause, MMKDError):
                raise error.cause from None
            self._raised(kind, name, error)
        except RayError as error:
            self._died(kind, name, error)
        else:
            if kind == "place":
                self._fleet.load(name, answer, now=now)
            elif kind == "load":
                self._lost_while_starting = 0
                self._fleet.rest(name, now=now)
            elif kind == "steps":
                self._fleet.members[name].answered = True
                self._schedule.step(name, answer, now=now)
            elif kind == "run":
                self._ran(name, answer)
            else:  # it is there again, but what it was doing is lost
                self._lose(name, Failure.LOSS, "its worker was out of reach")

    def _ran(self, name: str, receipts: list[Receipt]) -> None:
        self._fleet.rest(name, now=self._clock())
        self._count(name, receipts)

    def _count(self, name: str, receipts: list[Receipt]) -> None:
        self._schedule.done(name, now=self._clock())
        self._metrics.note(receipts)
        self._tracker.note(receipts)

    def _raised(self, kind: Kind, name: str, error: RayTaskError) -> None:
        """Deal with an exception in an actor that lives on."""
        cause = error.cause if error.cause is not None else error
        why = _last_words(cause)
        if kind == "run" and BROKEN_DEVICE in str(cause):
            self._lose(name, Failure.CRASH, why)
        elif kind == "run":
            self._fleet.rest(name, now=self._clock())
            self._failed(name, Failure.ERROR, why)
        elif kind in ("place", "load"):
            self._lose_starting(name, why)

    def _died(self, kind: Kind, name: str, error: RayError) -> None:
        """Deal with an actor that is dead or out of reach."""
        if kind == "steps":  # its task will say so too, and knows of what; if it does not, the worker is there again
            self._fleet.members[name].answered = True
            return
        if isinstance(error, ActorUnavailableError):
            if kind == "inquest":
                self._fleet.members[name].answered = True
            else:
                self._fleet.lose(name, now=self._clock())
            return
        failure, why = self._judge(name, error)
        self._lose(name, failure, why)

    def _judge(self, name: str, error: RayError) -> tuple[Failure, str]:
        if isinstance(error, RayActorError) and error.preempted:
            return Failure.LOSS, "its worker was preempted"
        if self._node_is_gone(name):
            return Failure.LOSS, "its worker's node is gone"
        detail = _DETAIL.search(str(error))
        said = detail[1] if detail else str(error).strip().splitlines()[0]
        return Failure.CRASH, f"its process died ({said[:200]})"

    def _node_is_gone(self, name: str) -> bool:
        node = self._fleet.members[name].node
        return node is not None and node not in {found["NodeID"] for found in ray.nodes() if found["Alive"]}

    def _lose(self, name: str, failure: Failure, why: str) -> None:
        """Do without an actor; its range is done again."""
        if name not in self._schedule.at_work:
            self._lose_starting(name, why, counts=failure is Failure.CRASH)
            return
        self._fleet.end(name)
        self._failed(name, failure, why)

    def _failed(self, name: str, failure: Failure, why: str) -> None:
        task = self._schedule.task_of(name)
        if receipts := committed_by_run(self._job, task):
            log.info("range %d: all of it was committed, then: %s", task.range_id, why)
            self._count(name, receipts)
            return
        self._schedule.failed(name, failure, why)
        log_failure(task, why, attempts=self._job.settings.attempts)
        self._tracker.outcome.failed.update(self._schedule.given_up)

    def _lose_starting(self, name: str, why: str, *, counts: bool = True) -> None:
        self._fleet.end(name)
        self._lost_while_starting += counts
        # A little later each time, until the cluster knows of a node that is gone.
        self._start_again = self._clock() + LOOK_S * 2 ** min(self._lost_while_starting, MAX_DOUBLINGS)
        log.warning("%s was lost before it was ready: %s", name, why)
        # While others work, what kills these is their node: it is tried again, and the run goes on without it.
        if self._lost_while_starting >= LOST_STARTING and not self._fleet.count("idle", "busy"):
            raise ExtractionError(
                f"{self._lost_while_starting} workers in a row were lost while they loaded the teachers; the last: "
                f"{why}",
                hint="python -m extract run --local shows the error without Ray; most often memory is too small",
            )

    def _watch(self) -> None:
        """End actors that take too long, and the run if none gets a place."""
        now, settings = self._clock(), self._job.settings
        for name, why in self._schedule.overdue(now=now).items():
            self._lose(name, Failure.CRASH, why)
        for name in self._fleet.in_stage("loading"):
            if now - self._fleet.members[name].since > settings.load_timeout_s:
                self._lose_starting(name, f"the teachers were not loaded within {settings.load_timeout_s:.0f} s")
        for name in self._fleet.in_stage("lost"):
            if self._node_is_gone(name):
                self._lose(name, Failure.LOSS, "its worker's node is gone")
            elif now - self._fleet.members[name].since > INQUEST_S:
                self._lose(name, Failure.CRASH, "its worker does not answer")
            else:
                self._fleet.hold_inquest(name, now=now, every_s=ASK_AGAIN_S)
        if self._fleet.count("loading", "idle", "busy", "lost"):
            self._placed_last = now
        elif now - self._placed_last > settings.start_timeout_s:
            raise ExtractionError(
                f"no worker got a place within {settings.start_timeout_s:.0f} s: each asks for "
                f"{_shown(wanted(self._job))} of one node, the cluster has {_shown(ray.cluster_resources())} on "
                f"{self._nodes()} nodes, {_shown(ray.available_resources())} of it free",
                hint="add nodes, or lower extract.threads_per_worker; what is committed stays",
            )

    def _tell(self) -> None:
        counts = {
            "ready": self._fleet.count("idle", "busy"),
            "starting": self._fleet.count("placing", "loading"),
            "busy": self._fleet.count("busy"),
        }
        self._tracker.workers(**counts)
        self._metrics.workers(**counts)

    def _say_what_is_lacking(self) -> None:
        if room(self._job) == 0:
            log.warning(
                "each worker asks for %s, and no node of the cluster has that now (all together: %s); waiting %.0f s",
                _shown(wanted(self._job)),
                _shown(ray.cluster_resources()),
                self._job.settings.start_timeout_s,
            )

    def _nodes(self) -> int:
        return sum(1 for node in ray.nodes() if node["Alive"])


def _last_words(cause: BaseException) -> str:
    lines = str(cause).strip().splitlines() or [""]
    # Torch says what is wrong first, and then how to find out more; of a traceback the last line says it.
    line = next((line for line in lines if BROKEN_DEVICE in line), lines[-1])
    return f"{type(cause).__name__}: {line}"


def _shown(resources: dict[str, float]) -> str:
    shown = (f"{name} {resources[name]:g}" for name in ("CPU", "GPU") if resources.get(name))
    return ", ".join(shown) or "neither CPU nor GPU"
