"""The problems that a check of a store found; they print as text and as JSON."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

from store.format.records import Receipt
from store.io.location import Location


class Kind(StrEnum):
    """Kinds of problems; JSON holds the text."""

    PAIR_TABLE = "pair-table"
    SPEC = "spec"
    ARRAYS = "arrays"
    RECEIPT_UNREADABLE = "receipt-unreadable"
    RECEIPT_WRONG = "receipt-wrong"
    OTHER_SPEC = "other-spec"
    OTHER_PAIRS = "other-pairs"
    OBJECT_MISSING = "object-missing"
    OBJECT_SIZE = "object-size"
    OBJECT_BYTES = "object-bytes"
    UNDECODABLE = "undecodable"
    STATUS = "status"
    NORM = "norm"
    NOT_ZERO = "not-zero"
    SIMILARITY = "similarity"
    OUTGROWN = "outgrown"
    ORPHAN = "orphan"
    ATTEMPT = "attempt"
    UNFINISHED = "unfinished"
    STRAY = "stray"


NOTES = frozenset({Kind.OUTGROWN, Kind.ORPHAN, Kind.ATTEMPT, Kind.UNFINISHED, Kind.STRAY})
"""Kinds that do no harm: such an object reads as missing or is not read at all."""

DEEP = frozenset({Kind.OBJECT_BYTES, Kind.UNDECODABLE, Kind.STATUS, Kind.NORM, Kind.NOT_ZERO, Kind.SIMILARITY})
"""Kinds that only reading every byte finds."""


def repair_command(location: Location, kind: Kind) -> str:
    """Return the command that repairs a problem."""
    return f"python -m store repair {shlex.quote(str(location))}{' --deep' if kind in DEEP else ''}"


UnitState = Literal["verified", "damaged", "missing", "outgrown"]
"""Outgrown: committed before rows were appended to its range; what it holds is valid."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Problem:
    """One thing in a store that is wrong: with the object at a key, and with a unit if it is about one."""

    kind: Kind
    key: str
    message: str
    next: str
    teacher: str | None = None
    range: int | None = None
    rows: tuple[int, int] | None = None

    @property
    def severity(self) -> Literal["damage", "note"]:
        """Return whether committed data are concerned."""
        return "note" if self.kind in NOTES else "damage"

    def __str__(self) -> str:
        """Return severity, place and what is wrong."""
        place = [self.teacher] if self.teacher else []
        place += [f"range {self.range}"] if self.range is not None else []
        place += [f"rows {self.rows[0]} to {self.rows[1] - 1}"] if self.rows else []
        return f"{self.severity}: {', '.join([*place, self.key])}: {self.message}"

    def as_json(self) -> dict[str, Any]:
        """Return the same as plain JSON values; ``rows`` is the first row and the one after the last."""
        return {"severity": self.severity, **asdict(self)}


@dataclass(kw_only=True, slots=True)
class UnitCheck:
    """The state of one range of one teacher.

    Attributes:
        receipt: None where it is missing or cannot be read.
        prefixes: where its objects may lie, in this order: the empty one is the place where they stay.
    """

    teacher: str
    range: int
    state: UnitState
    receipt: Receipt | None = None
    prefixes: tuple[str, ...] = ("",)
    problems: list[Problem] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class Report:
    """The result of ``python -m store verify``.

    Attributes:
        general: problems that belong to no unit.
    """

    store: str
    deep: bool
    rows: int
    ranges: int
    units: list[UnitCheck]
    general: list[Problem]

    @property
    def problems(self) -> list[Problem]:
        """All problems, damage first."""
        found = [*self.general, *(problem for unit in self.units for problem in unit.problems)]
        return sorted(found, key=lambda problem: problem.severity)

    @property
    def valid(self) -> bool:
        """Return whether all that is committed is as it was committed."""
        return not any(problem.severity == "damage" for problem in self.problems)

    @property
    def complete(self) -> bool:
        """Return whether it is valid and every range of every teacher is committed."""
        return self.valid and bool(self.units) and all(unit.state == "verified" for unit in self.units)

    def counts(self) -> dict[str, dict[UnitState, int]]:
        """Return by teacher how many of its ranges are in each state."""
        states: tuple[UnitState, ...] = ("verified", "outgrown", "missing", "damaged")
        found = Counter((unit.teacher, unit.state) for unit in self.units)
        teachers = dict.fromkeys(unit.teacher for unit in self.units)
        return {teacher: {state: found[teacher, state] for state in states} for teacher in teachers}

    def as_json(self) -> dict[str, Any]:
        """Return the same as plain JSON values; docs/store.md describes them."""
        plain = {name: getattr(self, name) for name in ("store", "deep", "valid", "complete", "rows", "ranges")}
        return {**plain, "teachers": self.counts(), "problems": [problem.as_json() for problem in self.problems]}
