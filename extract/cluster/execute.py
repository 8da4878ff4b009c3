"""The driver's loop on Ray: gives ranges to actors, reports what became of them, and counts that as Ray metrics.

Only an actor that has said it is ready gets work: one that still waits for a place in the cluster would take a range
and never return it.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError
from ray.util.metrics import Counter, Gauge

from extract.config import resources_text
from extract.run.dispatch import Dispatch
from extract.run.plan import RangeWork
from extract.run.run_spec import Job
from extract.run.schedule import Failure, Restarts, failure_of
from extract.run.tracker import Tracker
from extract.worker.task import TASKS_AT_ONCE, Made, TaskDroppedError
from store.errors import ExtractionError
from store.format.stages import seconds_of_range

from .connect import connected, may_grow
from .fleet import Call, Fleet, Kind, room

log = logging.getLogger(__name__)

TICK_S = 0.5
"""Time between two looks at the clock while no actor answers."""

LOOK_S = 2.0
"""Time between two counts of the cluster's nodes."""

INQUEST_S = 30.0
"""An unreachable actor counts as dead after this time; whether its node is gone the cluster knows within seconds."""

ASK_AGAIN_S = 1.0
"""Time between two inquests."""

SPARE_S = 15.0
"""An actor without a task is kept so long for what may have to be done again."""

_DETAIL = re.compile(r"exit detail: (.+?)(?:\. |$)")


def execute_on_ray(job: Job, work: Sequence[RangeWork], tracker: Tracker) -> None:
    """Do every range on a Ray cluster: the one that RAY_ADDRESS or a Ray job names, else a local one."""
    with connected(job.settings):
        Driver(job, work, tracker).drain()


class Driver:
    """Gives ranges to actors until all are done or given up."""

    def __init__(
        self, job: Job, work: Sequence[RangeWork], tracker: Tracker, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._job, self._tracker, self._clock = job, tracker, clock
        self._fleet, self._metrics, self._restarts = Fleet(job), RunMetrics(job.run_id), Restarts()
        self._dispatch = Dispatch(job, work, tracker, on_receipts=self._metrics.note)
        self._schedule = self._dispatch.schedule
        self._placed_last, self._looked, self._room = clock(), float("-inf"), 0

    def drain(self) -> None:
        """Do all ranges.

        Raises:
            ExtractionError: the cluster has no room for a worker, or workers die while they load the teachers.
        """
        self._warn_if_there_is_no_room()
        every_s = min(10.0, self._job.settings.stall_timeout_s / 5)
        while not self._schedule.over:
            self._grow()
            self._give()
            self._shrink()
            self._tell()
            for name in self._fleet.in_stage("busy"):
                self._fleet.ask_again("steps", name, now=self._clock(), every_s=every_s)
            for call, reference in self._fleet.answers(timeout_s=min(TICK_S, every_s)):
                self._collect(call, reference)
            self._watch()
            was_stopping = self._schedule.stopping
            self._dispatch.look_for_stop()
            if self._schedule.stopping and not was_stopping:
                self._fleet.drop()
        self._dispatch.look_for_stop()
        self._tell()

    def _give(self) -> None:
        """Give tasks to actors: first to those that have none, so that no actor holds what another could do."""
        ready = [*self._fleet.in_stage("idle"), *self._fleet.in_stage("busy")]
        workers = len(ready) + self._fleet.count("loading")
        for _ in range(TASKS_AT_ONCE):
            for name in ready:
                task = self._schedule.take(name, now=self._clock(), workers=workers)
                if task is not None:
                    self._fleet.run(name, task, now=self._clock())

    def _grow(self) -> None:
        """Start as many actors as there is work and room for."""
        now = self._clock()
        if now - self._looked >= LOOK_S:
            self._looked, self._room = now, room(self._job)
        surplus = self._fleet.count("placing", "loading", "idle", "busy") - self._target()
        for _ in range(-surplus if self._restarts.allowed(now=now) else 0):
            self._fleet.start(now=now)

    def _target(self) -> int:
        """Return how many actors there should be, with and without a place."""
        number = self._job.settings.workers
        if not number:
            # A cluster that grows by itself does so for actors that wait: for as many as work, so that it doubles.
            waiting = max(1, self._fleet.count("loading", "idle", "busy")) if may_grow() else 0
            number = max(1, self._room + waiting)
        return min(number, self._schedule.outstanding)

    def _shrink(self) -> None:
        """End actors for which no task is left, so that their nodes may go: first those that still wait for one."""
        surplus = self._fleet.count("placing", "loading", "idle", "busy") - self._target()
        spare = self._fleet.in_stage("placing")[::-1]
        if not self._schedule.waiting:
            idle = self._fleet.in_stage("idle")
            spare += [name for name in idle if self._clock() - self._fleet.members[name].since > SPARE_S]
        for name in spare[: max(0, surplus)]:
            self._fleet.end(name)

    def _collect(self, call: Call, reference: Any) -> None:
        kind, name, now = call.kind, call.name, self._clock()
        try:
            answer = ray.get(reference)
        except RayTaskError as error:
            self._raised(call, error)
        except RayError as error:
            self._died(kind, name, error)
        else:
            if kind == "place":
                self._fleet.load(name, answer, now=now)
            elif kind == "load":
                self._restarts.ready()
                self._fleet.rest(name, now=now)
            elif kind == "steps":
                self._fleet.members[name].answered = True
                self._schedule.step(name, answer, now=now)
            elif call.task is not None:
                self._dispatch.done(call.task, answer, now=now)
                self._rest(name)
            elif kind == "inquest":  # the actor is reachable again, but its call is lost
                self._lose(name, Failure.LOSS, "its worker was out of reach")

    def _raised(self, call: Call, error: RayTaskError) -> None:
        """Deal with an exception in an actor that lives on."""
        cause = error.cause if error.cause is not None else error
        failure, why = (Failure.ERROR, "") if isinstance(cause, TaskDroppedError) else failure_of(cause)
        if call.task is not None and failure is Failure.ERROR:
            self._dispatch.failed(call.task, cause, now=self._clock())
            self._rest(call.name)
        elif call.kind in ("run", "place", "load"):
            self._lose(call.name, failure, why)

    def _rest(self, name: str) -> None:
        if name not in self._schedule.at_work:
            self._fleet.rest(name, now=self._clock())

    def _died(self, kind: Kind, name: str, error: RayError) -> None:
        """Deal with an actor that is dead or unreachable."""
        if kind == "steps":  # the call of its task fails too and says why; if not, the actor is reachable again
            self._fleet.members[name].answered = True
        elif not isinstance(error, ActorUnavailableError):
            self._lose(name, *self._judge(name, error))
        elif kind == "inquest":
            self._fleet.members[name].answered = True
        else:
            self._fleet.lose(name, now=self._clock())

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
        """End an actor and report what became of its task, or that it was not ready yet."""
        self._fleet.end(name)
        if name in self._schedule.at_work:
            self._dispatch.lost(name, failure, why, now=self._clock())
            return
        log.warning("%s was lost before it was ready: %s", name, why)
        self._restarts.lost(failure, why, others_work=self._fleet.count("idle", "busy") > 0, now=self._clock())

    def _watch(self) -> None:
        """End actors that take too long, and the run if none gets a place."""
        now, settings = self._clock(), self._job.settings
        for name, why in self._schedule.overdue(now=now).items():
            self._lose(name, Failure.CRASH, why)
        for name in self._fleet.in_stage("loading"):
            if now - self._fleet.members[name].since > settings.load_timeout_s:
                why = f"the teachers were not loaded within {settings.load_timeout_s:.0f} s"
                self._lose(name, Failure.CRASH, why)
        for name in self._fleet.in_stage("lost"):
            if self._node_is_gone(name):
                self._lose(name, Failure.LOSS, "its worker's node is gone")
            elif now - self._fleet.members[name].since > INQUEST_S:
                self._lose(name, Failure.CRASH, "its worker does not answer")
            else:
                self._fleet.ask_again("inquest", name, now=now, every_s=ASK_AGAIN_S)
        if self._fleet.count("loading", "idle", "busy", "lost"):
            self._placed_last = now
        elif now - self._placed_last > settings.start_timeout_s:
            nodes = sum(1 for node in ray.nodes() if node["Alive"])
            raise ExtractionError(
                f"no worker got a place within {settings.start_timeout_s:.0f} s: each asks for "
                f"{resources_text(settings.asked)} of one node, the cluster has "
                f"{resources_text(ray.cluster_resources())} on {nodes} nodes, "
                f"{resources_text(ray.available_resources())} of it free",
                hint="add nodes, or lower extract.threads_per_worker, decode_threads (extract pixels: --threads) or "
                "gpus_per_worker; what is committed stays",
            )

    def _tell(self) -> None:
        counts = {
            "ready": self._fleet.count("idle", "busy"),
            "starting": self._fleet.count("loading"),
            "busy": self._fleet.count("busy"),
            "waiting": self._fleet.count("placing"),
        }
        self._tracker.workers(**counts)
        self._metrics.workers(counts)

    def _warn_if_there_is_no_room(self) -> None:
        if room(self._job) == 0:
            log.warning(
                "each worker asks for %s, and no node of the cluster has that now (all together: %s); waiting %.0f s",
                resources_text(self._job.settings.asked),
                resources_text(ray.cluster_resources()),
                self._job.settings.start_timeout_s,
            )


class RunMetrics:
    """Counts units, rows, bad rows and seconds by stage; every metric has the run's id as a tag."""

    def __init__(self, run_id: str) -> None:
        of_teacher = ("run", "teacher")
        self._units = Counter("mmkd_extract_units", "Units committed by the run.", of_teacher)
        self._rows = Counter("mmkd_extract_rows", "Rows of the units committed by the run.", of_teacher)
        self._bad = Counter("mmkd_extract_bad_rows", "Rows without feature in units committed by the run.", of_teacher)
        self._seconds = Counter("mmkd_extract_stage_seconds", "Seconds of all workers, by stage.", ("run", "stage"))
        self._workers = Gauge("mmkd_extract_workers", "Workers, by state.", ("run", "state"))
        for metric in (self._units, self._rows, self._bad, self._seconds, self._workers):
            metric.set_default_tags({"run": run_id})

    def note(self, receipts: Sequence[Made]) -> None:
        """Count the receipts of one range."""
        for receipt in receipts:
            tags = {"teacher": receipt.subject}
            self._units.inc(1, tags)
            self._rows.inc(max(1, receipt.stop - receipt.start), tags)
            if receipt.bad_rows:
                self._bad.inc(len(receipt.bad_rows), tags)
        for stage, seconds in seconds_of_range(receipts).items():
            if seconds > 0:  # a counter refuses zero
                self._seconds.inc(seconds, {"stage": stage})

    def workers(self, counts: Mapping[str, int]) -> None:
        """Record how many workers are in each state."""
        for state, count in counts.items():
            self._workers.set(count, {"state": state})
