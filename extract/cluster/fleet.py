"""The actors of a run and what each is asked: starting them, asking them, ending them. Decides nothing about ranges."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import ray

from extract.run.driver import Job
from extract.run.schedule import Task

from .actor import CONTROL, start_actor

Stage = Literal["placing", "loading", "idle", "busy", "lost"]
"""Of an actor: it waits for room on a node, loads its teachers, has nothing to do, does a task, or does not answer."""

Kind = Literal["place", "load", "run", "steps", "inquest"]
"""Of a call to an actor; an inquest asks one that is out of reach what became of it."""


@dataclass(slots=True)
class Member:
    """An actor as the driver knows it.

    Attributes:
        handle: Ray's.
        stage: where it is.
        since: when it came there.
        node: where it runs, once that is known.
        asked: when it was last asked for its steps.
        answered: whether it answered that.
    """

    handle: Any
    stage: Stage
    since: float
    node: str | None = None
    asked: float = 0.0
    answered: bool = True


class Fleet:
    """Actors by name.

    Args:
        job: that they are started with.
    """

    def __init__(self, job: Job) -> None:
        self._job, self._started = job, 0
        self._calls: dict[Any, tuple[Kind, str]] = {}
        self.members: dict[str, Member] = {}

    def count(self, *stages: Stage) -> int:
        """Return how many actors are in any of some stages."""
        return sum(member.stage in stages for member in self.members.values())

    def in_stage(self, stage: Stage) -> list[str]:
        """Return the actors in a stage."""
        return [name for name, member in self.members.items() if member.stage == stage]

    def start(self, *, now: float) -> None:
        """Ask the cluster for one more actor."""
        self._started += 1
        name = f"worker {self._started}"
        self.members[name] = Member(start_actor(self._job), "placing", now)
        self._ask("place", name)

    def load(self, name: str, node: str, *, now: float) -> None:
        """Have an actor that got a place load its teachers."""
        member = self.members[name]
        member.stage, member.since, member.node = "loading", now, node
        self._ask("load", name)

    def rest(self, name: str, *, now: float) -> None:
        """Note that an actor has nothing to do."""
        self.members[name].stage, self.members[name].since = "idle", now

    def run(self, name: str, task: Task, *, now: float) -> None:
        """Give an actor a task."""
        member = self.members[name]
        member.stage, member.since, member.asked, member.answered = "busy", now, now, True
        self._ask("run", name, task)

    def ask_steps(self, *, now: float, every_s: float) -> None:
        """Ask the actors at work how far they are; one that has not answered yet is not asked again."""
        for name in self.in_stage("busy"):
            member = self.members[name]
            if member.answered and now - member.asked >= every_s:
                member.asked, member.answered = now, False
                self._ask("steps", name)

    def lose(self, name: str, *, now: float) -> None:
        """Note that an actor is out of reach: dead, or not."""
        member = self.members[name]
        member.stage, member.since, member.asked, member.answered = "lost", now, now, True

    def hold_inquest(self, name: str, *, now: float, every_s: float) -> None:
        """Ask an actor that is out of reach: if it is dead, Ray says so in its place as soon as the cluster knows."""
        member = self.members[name]
        if member.answered and now - member.asked >= every_s:
            member.asked, member.answered = now, False
            self._ask("inquest", name)

    def end(self, name: str) -> None:
        """Kill an actor; before its range is given away, because not to answer does not prove to be dead."""
        ray.kill(self.members.pop(name).handle, no_restart=True)
        self._calls = {call: (kind, of) for call, (kind, of) in self._calls.items() if of != name}

    def answers(self, *, timeout_s: float) -> Iterable[tuple[Kind, str, Any]]:
        """Return calls that are done, with their references; waits for a first one, or where none can come."""
        if not self._calls:
            time.sleep(timeout_s)
            return []
        done, _ = ray.wait(list(self._calls), num_returns=1, timeout=timeout_s)
        return [(*self._calls.pop(call), call) for call in done]

    def _ask(self, kind: Kind, name: str, *arguments: Any) -> None:
        method = getattr(self.members[name].handle, "place" if kind == "inquest" else kind)
        if kind not in ("load", "run"):
            method = method.options(concurrency_group=CONTROL)
        self._calls[method.remote(*arguments)] = (kind, name)
