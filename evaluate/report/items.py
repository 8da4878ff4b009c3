"""The same test items as every model answered them: what results keep of them, joined by item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluate.results.examples import Example, examples_in
from evaluate.results.record import ModelFacts, ResultRecord

from .boards import ROLE_ORDER


@dataclass(kw_only=True, frozen=True, slots=True)
class Item:
    """A test item.

    Attributes:
        example: the first model's; what was asked and what is right is the same for all.
        first: what the students and the best teacher said.
        rest: what the other models said.
    """

    example: Example
    first: list[tuple[ModelFacts, Example]]
    rest: list[tuple[ModelFacts, Example]]


def same_items(records: Sequence[ResultRecord], kind: str) -> list[tuple[str, str, list[Item]]]:
    """Return the items that results keep of a kind, with title and task, by dataset."""
    groups: dict[tuple[str, str], list[ResultRecord]] = {}
    for record in records:
        groups.setdefault((record.dataset.title, record.task), []).append(record)
    found = [(title, task, _items(group, kind)) for (title, task), group in sorted(groups.items())]
    return [(title, task, items) for title, task, items in found if items]


def best_teacher(records: Sequence[ResultRecord]) -> ResultRecord | None:
    """Return the result of the best teacher on one dataset; None if no teacher has one."""
    teachers = [record for record in records if record.model.role == "teacher"]
    return max(teachers, key=lambda one: one.value, default=None)


def _items(records: Sequence[ResultRecord], kind: str) -> list[Item]:
    best = best_teacher(records)
    ordered = sorted(records, key=lambda one: (ROLE_ORDER.index(one.model.role), one is not best, one.model.name))
    items: dict[tuple[str, str | None], Item] = {}
    for record in ordered:
        shown_first = record is best or record.model.role in {"student", "task_only"}
        for example in examples_in(record.details):
            if example.kind == kind:
                item = items.setdefault((example.id, example.question), Item(example=example, first=[], rest=[]))
                (item.first if shown_first else item.rest).append((record.model, example))
    return list(items.values())
