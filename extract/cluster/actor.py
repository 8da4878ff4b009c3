"""The process on a node: it holds all teachers, does one range at a time, and answers meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

from extract.run.run_spec import RunSpec, build_worker
from extract.run.schedule import Task
from extract.run.worker import Worker
from store.format.records import Receipt

CONTROL = "control"
"""Concurrency group whose thread answers the driver while a range is at work."""


class RangeActor:
    """Holds the teachers in a separate process.

    Call ``place`` and ``steps`` in the concurrency group CONTROL, so that they answer while a range is at work.
    """

    def __init__(self, spec: RunSpec) -> None:
        self._spec, self._steps = spec, 0
        self._worker: Worker | None = None

    def place(self) -> str:
        """Return the id of this actor's node; the first answer shows that the cluster had room for it."""
        return str(ray.get_runtime_context().get_node_id())

    def steps(self) -> int:
        """Return a number that grows whenever something was done."""
        return self._steps

    def load(self) -> None:
        """Load the teachers."""
        self._worker = build_worker(self._spec)
        self._worker.on_step = self._step

    def run(self, task: Task) -> list[Receipt]:
        """Extract and commit one range, or try the rows of a probe."""
        if self._worker is None:
            raise RuntimeError("the teachers are not loaded")
        if task.probe is not None:
            self._worker.probe(task.probe, task.teachers)
            return []
        return self._worker.run(task.range_id, task.teachers, attempt=task.attempt, killers=task.killers)

    def _step(self) -> None:
        self._steps += 1


def start_actor(spec: RunSpec) -> Any:
    """Ask the cluster for an actor and return its handle; it may never get a place."""
    asked = wanted(spec)
    make: Callable[[type], Any] = ray.remote(
        num_cpus=asked["CPU"],
        num_gpus=asked["GPU"],
        # Ray restarts and repeats nothing. The driver does, because it counts attempts.
        max_restarts=0,
        max_task_retries=0,
        concurrency_groups={CONTROL: 1},
        max_concurrency=1,
        scheduling_strategy="SPREAD",
    )
    return make(RangeActor).remote(spec)


def wanted(spec: RunSpec) -> dict[str, float]:
    """Return the CPUs and GPUs of one node that each actor asks for."""
    settings = spec.settings
    return {"CPU": float(settings.threads_per_worker), "GPU": 1.0 if settings.device == "cuda" else 0.0}


def room(spec: RunSpec) -> int:
    """Return how many actors the present nodes could hold if nothing else ran on them."""
    asked = {name: amount for name, amount in wanted(spec).items() if amount}
    return sum(
        min(int(node["Resources"].get(name, 0) // amount) for name, amount in asked.items())
        for node in ray.nodes()
        if node["Alive"]
    )
