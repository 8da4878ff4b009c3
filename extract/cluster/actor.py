"""What runs on a node: a process with all teachers, which does one range at a time and answers meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

from extract.run.driver import Job, build_worker
from extract.run.schedule import Task
from extract.run.worker import Worker
from store.format.records import Receipt

CONTROL = "control"
"""Name of the thread of an actor that answers what the driver asks while a range is at work."""


class RangeActor:
    """Holds the teachers in a process of its own.

    ``place`` and ``steps`` are for calls of the concurrency group CONTROL, which answers while a range is at work.

    Args:
        job: everything needed to begin.
    """

    def __init__(self, job: Job) -> None:
        self._job, self._steps = job, 0
        self._worker: Worker | None = None

    def place(self) -> str:
        """Return the node on which it is; the first answer says that there was room for it."""
        return str(ray.get_runtime_context().get_node_id())

    def steps(self) -> int:
        """Return a number that is another as soon as anything was done."""
        return self._steps

    def load(self) -> None:
        """Load the teachers."""
        self._worker = build_worker(self._job)
        self._worker.on_step = self._step

    def run(self, task: Task) -> list[Receipt]:
        """Extract and commit one range, or survive some of its rows."""
        if self._worker is None:
            raise RuntimeError("the teachers are not loaded")
        if task.probe is not None:
            self._worker.probe(task.probe, task.teachers)
            return []
        return self._worker.run(task.range_id, task.teachers, attempt=task.attempt, killers=task.killers)

    def _step(self) -> None:
        self._steps += 1


def start_actor(job: Job) -> Any:
    """Ask the cluster for an actor and return its handle; it may never get a place."""
    # Ray restarts and repeats nothing: the driver does, which counts.
    options: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": {CONTROL: 1}}
    make: Callable[[type], Any] = ray.remote(
        **options, **_resources(job), scheduling_strategy="SPREAD", max_concurrency=1
    )
    return make(RangeActor).remote(job)


def wanted(job: Job) -> dict[str, float]:
    """Return what each actor asks of a node."""
    settings = job.settings
    return {"CPU": float(settings.threads_per_worker), "GPU": 1.0 if settings.device == "cuda" else 0.0}


def _resources(job: Job) -> dict[str, float]:
    asked = wanted(job)
    return {"num_cpus": asked["CPU"], "num_gpus": asked["GPU"]}


def room(job: Job) -> int:
    """Return how many actors the nodes that are there could hold if nothing else ran on them."""
    asked = {name: amount for name, amount in wanted(job).items() if amount}
    return sum(
        min(int(node["Resources"].get(name, 0) // amount) for name, amount in asked.items())
        for node in ray.nodes()
        if node["Alive"]
    )
