"""The same run on Ray: actors that hold all teachers, and a queue of ranges in the driver.

Ray retries nothing here. A range whose worker died is put back by this loop, and only an actor that has answered
``ready`` is given work: one that still waits for a place in the cluster would swallow a range and never return it.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# A first local ray.init() turns token authentication on for the whole account, after which `ray job submit` fails; and
# nobody asked for usage reports. Both are read when ray is imported, and what the user has set stands.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray.exceptions import RayActorError, RayTaskError

from store.errors import ExtractionError, MMKDError
from store.records import Receipt

from .driver import Job, Outcome, build_worker, record_failure
from .plan import RangeWork

log = logging.getLogger(__name__)

START_TIMEOUT_S = 300.0
"""How long a run waits for a first actor before it says that the cluster has no room."""


class RangeActor:
    """Holds the teachers in a process of its own."""

    def __init__(self, job: Job) -> None:
        self._worker = build_worker(job)

    def ready(self) -> bool:
        """Answer once the teachers are loaded."""
        return True

    def run(self, item: RangeWork, attempt: int) -> list[Receipt]:
        """Extract and commit one range."""
        return self._worker.run(item.range_id, item.teachers, attempt=attempt)


def execute_on_ray(
    job: Job, work: Sequence[RangeWork], outcome: Outcome, note: Callable[[list[Receipt]], None]
) -> None:
    """Do every range on a Ray cluster: the one that RAY_ADDRESS or a Ray job names, else a local one."""
    _connect(job)
    try:
        _Queue(job, outcome, note).drain(work)
    finally:
        ray.shutdown()


def _connect(job: Job) -> None:
    # Workers import these packages from the repository, wherever the driver was started.
    environment = {"env_vars": {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}}
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if "RAY_ADDRESS" in os.environ:
        ray.init(**quiet)
        return
    slots = job.settings.workers * job.settings.threads_per_worker
    # "local", or Ray would take any cluster whose address was left behind on this machine.
    local: dict[str, Any] = {"address": "local", "include_dashboard": False, "object_store_memory": 128 * 2**20}
    ray.init(num_cpus=slots, runtime_env=environment, **local, **quiet)


class _Queue:
    """Ranges waiting, actors starting, busy and idle."""

    def __init__(self, job: Job, outcome: Outcome, note: Callable[[list[Receipt]], None]) -> None:
        self._job, self._outcome, self._note = job, outcome, note
        self._waiting: deque[tuple[RangeWork, int]] = deque()
        self._starting: dict[Any, Any] = {}
        self._busy: dict[Any, tuple[Any, RangeWork, int]] = {}
        self._idle: list[Any] = []
        self._lost_while_starting = 0

    def drain(self, work: Sequence[RangeWork]) -> None:
        self._say_what_is_lacking()
        self._waiting.extend((item, 1) for item in work)
        for _ in range(min(self._job.settings.workers, len(work))):
            self._start_actor()
        last_sign_of_life = time.monotonic()
        while self._waiting or self._busy:
            while self._waiting and self._idle:
                self._dispatch(self._idle.pop())
            finished, _ = ray.wait([*self._starting, *self._busy], num_returns=1, timeout=1.0)
            for reference in finished:
                self._collect(reference)
            if finished or self._busy:
                last_sign_of_life = time.monotonic()
            elif time.monotonic() - last_sign_of_life > START_TIMEOUT_S:
                self._give_up()

    def _start_actor(self) -> None:
        settings = self._job.settings
        actor_class = ray.remote(
            num_cpus=settings.threads_per_worker,
            num_gpus=1 if settings.device == "cuda" else 0,
            max_restarts=0,
            max_task_retries=0,
        )(RangeActor)
        actor = actor_class.remote(self._job)
        self._starting[actor.ready.remote()] = actor

    def _dispatch(self, actor: Any) -> None:
        item, attempt = self._waiting.popleft()
        self._busy[actor.run.remote(item, attempt)] = (actor, item, attempt)

    def _collect(self, reference: Any) -> None:
        if reference in self._starting:
            self._collect_start(reference)
            return
        actor, item, attempt = self._busy.pop(reference)
        try:
            receipts: list[Receipt] = ray.get(reference)
        except RayTaskError as error:
            if isinstance(error.cause, MMKDError):
                raise error.cause from None
            self._idle.append(actor)
            self._retry(item, attempt, error)
        except RayActorError as error:
            # Unavailable does not prove dead: make sure before its range is given away.
            ray.kill(actor)
            self._start_actor()
            self._retry(item, attempt, error)
        else:
            self._idle.append(actor)
            self._note(receipts)

    def _collect_start(self, reference: Any) -> None:
        actor = self._starting.pop(reference)
        try:
            ray.get(reference)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, MMKDError) else error) from None
        except RayActorError as error:
            self._lost_while_starting += 1
            cause = getattr(error, "cause", None)
            if isinstance(cause, MMKDError):
                raise cause from None
            if self._lost_while_starting >= self._job.settings.attempts:
                raise ExtractionError(
                    f"{self._lost_while_starting} workers died while they loaded the teachers; the last said: {error}",
                    hint="python -m extract run --local shows the error without Ray; most often memory is too small",
                ) from None
            self._start_actor()
        else:
            self._idle.append(actor)

    def _retry(self, item: RangeWork, attempt: int, error: Exception) -> None:
        # At the back, so that a range which kills its workers does not hold up the others.
        if record_failure(self._outcome, item, error, attempt=attempt, attempts=self._job.settings.attempts):
            self._waiting.append((item, attempt + 1))

    def _wanted(self) -> dict[str, float]:
        settings = self._job.settings
        return {"CPU": settings.threads_per_worker, "GPU": 1 if settings.device == "cuda" else 0}

    def _say_what_is_lacking(self) -> None:
        there = ray.cluster_resources()
        lacking = [name for name, amount in self._wanted().items() if there.get(name, 0) < amount]
        if lacking:
            log.warning(
                "each worker asks for %s and the cluster has no such %s now; waiting %.0f s for a node that has",
                self._wanted(),
                " and ".join(lacking),
                START_TIMEOUT_S,
            )

    def _give_up(self) -> None:
        raise ExtractionError(
            f"no worker could start within {START_TIMEOUT_S:.0f} s: each asks for {self._wanted()}, "
            f"the cluster has {ray.cluster_resources()}",
            hint="add nodes, or lower extract.threads_per_worker; what is committed stays",
        )
