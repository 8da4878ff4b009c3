"""The adversary's actions: a function of the seed alone, or those of a log."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from itertools import count

WEIGHTS = {
    "append": 4,
    "kill_driver": 3,
    "kill_worker": 3,
    "kill_trainer": 3,
    "kill_append": 1,
    "damage": 2,
    "repair": 1,
    "fill": 1,
}
"""Weights of the actions in a folder."""

ON_S3 = WEIGHTS | {"outage": 3}
"""Weights of the actions on an S3 server."""

MOST_UNITS = 16
"""Units that are committed before an action, at most."""


@dataclass(frozen=True, kw_only=True)
class Action:
    """One action.

    Attributes:
        wait_units: it waits until so many more units are committed, or all are.
        draw: in [0, 1), chooses what is hit, or how long something lasts.
    """

    number: int
    kind: str
    wait_units: int
    draw: float

    def as_json(self):
        return asdict(self)


def drawn(seed, *, storage):
    """Yield actions without end."""
    generator, weights = random.Random(seed), ON_S3 if storage == "s3" else WEIGHTS
    for number in count():
        (kind,) = generator.choices([*weights], [*weights.values()])
        yield Action(number=number, kind=kind, wait_units=generator.randrange(MOST_UNITS), draw=generator.random())


def logged(path):
    """Return what a log says: (settings of the soak, its actions)."""
    first, *rest = (json.loads(line) for line in path.read_text().splitlines())
    names = Action.__dataclass_fields__
    return first, [Action(**{name: line[name] for name in names}) for line in rest if "number" in line]
