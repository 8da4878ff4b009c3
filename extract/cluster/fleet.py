"""A run's actors: the process on a node, and the driver's side, which starts, calls and ends them.

An actor holds all teachers, does a few ranges as a pipeline, and answers meanwhile. Nothing here decides about ranges.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import ray

from extract.run.run_spec import Job
from extract.worker.task import TASKS_AT_ONCE, Made, RangeWorker, Task

CONTROL, TASKS = "control", "tasks"
"""Concurrency groups: a thread that answers the driver at any time, and one thread for each task of the worker."""


class RangeActor:
    """Holds the teachers in a separate process.

    Call ``place``, ``steps`` and ``drop`` in the concurrency group CONTROL, so that they answer while a range is at
    work, and ``run`` in TASKS.
    """

    def __init__(self, job: Job) -> None:
        self._job, self._steps = job, 0
        self._worker: RangeWorker | None = None

    def place(self) -> str:
        """Return the id of this actor's node; the first answer shows that the cluster had room for it."""
        return str(ray.get_runtime_context().get_node_id())

    def steps(self) -> int:
        """Return a number that grows whenever something was done."""
        return self._steps

    def load(self) -> None:
        """Load the teachers."""
        self._worker = self._job.build(on_step=self._step)

    def run(self, task: Task) -> list[Made]:
        """Do and commit one range, or try the rows of a probe."""
        if self._worker is None:
            raise RuntimeError("the teachers are not loaded")
        made: list[Made] = self._worker.submit(task).result()
        return made

    def drop(self) -> None:
        """End the tasks whose commit has not begun."""
        if self._worker is not None:
            self._worker.drop()

    def _step(self) -> None:
        self._steps += 1


def start_actor(job: Job) -> Any:
    """Ask the cluster for an actor and return its handle; it may never get a place."""
    asked = job.settings.asked
    make: Callable[[type], Any] = ray.remote(
        num_cpus=asked["CPU"],
        num_gpus=asked["GPU"],
        # Ray restarts and repeats nothing. The driver does, because it counts attempts.
        max_restarts=0,
        max_task_retries=0,
        concurrency_groups={CONTROL: 1, TASKS: TASKS_AT_ONCE},
        max_concurrency=1,
        scheduling_strategy="SPREAD",
    )
    return make(RangeActor).remote(job)


def room(job: Job) -> int:
    """Return how many actors the present nodes could hold if nothing else ran on them."""
    asked = {name: amount for name, amount in job.settings.asked.items() if amount}
    return sum(
        min(holds(node["Resources"].get(name, 0), amount) for name, amount in asked.items())
        for node in ray.nodes()
        if node["Alive"]
    )


def holds(amount: float, asked: float) -> int:
    """Return how many actors find room in an amount of a node; a part of a card is a part of one card."""
    if asked < 1:
        return int(amount) * int(1 / asked + 1e-9)
    return int(amount // asked)


Stage = Literal["placing", "loading", "idle", "busy", "lost"]
"""An actor waits for room on a node, loads its teachers, waits for a task, does one, or is unreachable."""

Kind = Literal["place", "load", "run", "steps", "drop", "inquest"]
"""A kind of call to an actor; an inquest calls an unreachable one and fails as soon as the cluster knows it is dead."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call to an actor; ``task`` is that of a run."""

    kind: Kind
    name: str
    task: Task | None = None


@dataclass(slots=True)
class Member:
    """An actor as the driver knows it.

    Attributes:
        since: when it entered its stage.
        node: the id of its node, once that is known.
        asked: when `Fleet.ask_again` last called it.
        answered: whether it answered that call.
    """

    handle: Any
    stage: Stage
    since: float
    node: str | None = None
    asked: float = 0.0
    answered: bool = True


class Fleet:
    """A run's actors, by name."""

    def __init__(self, job: Job) -> None:
        self._job, self._started = job, 0
        self._calls: dict[Any, Call] = {}
        self.members: dict[str, Member] = {}

    def count(self, *stages: Stage) -> int:
        """Return how many actors are in one of these stages."""
        return sum(member.stage in stages for member in self.members.values())

    def in_stage(self, stage: Stage) -> list[str]:
        """Return the names of the actors in a stage."""
        return [name for name, member in self.members.items() if member.stage == stage]

    def start(self, *, now: float) -> None:
        """Ask the cluster for one more actor."""
        self._started += 1
        name = f"worker {self._started}"
        self.members[name] = Member(start_actor(self._job), "placing", now)
        self._ask("place", name)

    def load(self, name: str, node: str, *, now: float) -> None:
        """Let an actor that got a place load its teachers."""
        member = self.members[name]
        member.stage, member.since, member.node = "loading", now, node
        self._ask("load", name)

    def rest(self, name: str, *, now: float) -> None:
        """Note that an actor has nothing to do."""
        self.members[name].stage, self.members[name].since = "idle", now

    def run(self, name: str, task: Task, *, now: float) -> None:
        """Give an actor a task; it may have others."""
        member = self.members[name]
        if member.stage != "busy":
            member.stage, member.since, member.asked, member.answered = "busy", now, now, True
        self._ask("run", name, task)

    def drop(self) -> None:
        """Let busy actors end the tasks whose commit has not begun; their calls fail then."""
        for name in self.in_stage("busy"):
            self._ask("drop", name)

    def lose(self, name: str, *, now: float) -> None:
        """Note that an actor is unreachable; it may be alive."""
        member = self.members[name]
        member.stage, member.since, member.asked, member.answered = "lost", now, now, True

    def ask_again(self, kind: Kind, name: str, *, now: float, every_s: float) -> None:
        """Call an actor for its steps or for an inquest, unless the last such call is recent or still unanswered."""
        member = self.members[name]
        if member.answered and now - member.asked >= every_s:
            member.asked, member.answered = now, False
            self._ask(kind, name)

    def end(self, name: str) -> None:
        """Kill an actor. Do so before its range is given away, because an actor that does not answer may be alive."""
        ray.kill(self.members.pop(name).handle, no_restart=True)
        self._calls = {reference: call for reference, call in self._calls.items() if call.name != name}

    def answers(self, *, timeout_s: float) -> Iterable[tuple[Call, Any]]:
        """Return finished calls with their references; wait for the first one, or for the time if there is none."""
        if not self._calls:
            time.sleep(timeout_s)
            return []
        done, _ = ray.wait(list(self._calls), num_returns=1, timeout=timeout_s)
        return [(self._calls.pop(reference), reference) for reference in done]

    def _ask(self, kind: Kind, name: str, task: Task | None = None) -> None:
        method = getattr(self.members[name].handle, "place" if kind == "inquest" else kind)
        if kind != "load":
            method = method.options(concurrency_group=TASKS if kind == "run" else CONTROL)
        reference = method.remote() if task is None else method.remote(task)
        self._calls[reference] = Call(kind, name, task)
