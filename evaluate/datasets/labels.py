"""Maps the labels of records to the classes of a dataset. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from store.config.problems import suggest
from store.corpus.fields import as_text, values_at
from store.errors import EvaluationError

from .entry import DatasetEntry, MultiLabel

YES_NO = frozenset({"yes", "no"})
"""Answers, in lower case, of questions that count as closed where the dataset does not say which are."""

SHOWN = 8
"""Number of unlisted labels that an error names."""


class Labels:
    """Reads labels, and counts those that the dataset does not list."""

    def __init__(self, entry: DatasetEntry) -> None:
        self._entry = entry
        self._places = {name: place for place, name in enumerate(entry.classes)}
        self._places |= {label: self._places[name] for label, name in entry.label_map.items()}
        self._groups = {name: {self._places[label] for label in of.classes} for name, of in entry.groups.items()}
        # Of MedMNIST the reader knows the column.
        self._path = (entry.fields.label or "label").split(".")
        self._unknown: Counter[tuple[str, str | None]] = Counter()

    def target(self, values: Mapping[str, Any], group: str | None = None) -> int | tuple[int, ...] | None:
        """Return the position of the class, or of all that the record has; None if its label is to be ignored.

        A label that is not listed, or not in its group, counts as the first class: ``finish`` refuses the dataset.
        """
        rule = self._entry.multi_label
        if self._entry.one_hot:
            names = self._columns(values, ["1", "1.0", "true"])
            return self._place(" and ".join(names) or "no class") if len(names) != 1 else self._places[names[0]]
        if rule is None:
            found = _texts(values, self._path)
            label = found[0] if found else ""
            return None if label in self._entry.ignore_labels else self._place(label, group)
        labels = [label for label in self._several(values, rule) if label not in rule.none]
        if any(label in self._entry.ignore_labels for label in labels):
            return None
        return tuple(sorted({self._place(label) for label in labels}))

    def finish(self) -> None:
        """Raise an EvaluationError that names the labels the dataset does not list, with how many items have each."""
        if not self._unknown:
            return
        shown = ", ".join(f"{_shown(*key)} ({count})" for key, count in self._unknown.most_common(SHOWN))
        more = ", ..." if len(self._unknown) > SHOWN else ""
        nearest = suggest(self._unknown.most_common(1)[0][0][0], self._entry.classes)
        raise EvaluationError(
            f"{self._entry.name}: {self._unknown.total()} labels are not among its classes: {shown}{more}{nearest}",
            hint=f"list them in {self._entry.name}.yaml: under classes, label_map or ignore_labels",
        )

    def _several(self, values: Mapping[str, Any], rule: MultiLabel) -> list[str]:
        if rule.by == "columns":
            return self._columns(values, rule.yes)
        found = _texts(values, self._path)
        return found if rule.by == "list" else [part.strip() for text in found for part in text.split(rule.separator)]

    def _columns(self, values: Mapping[str, Any], yes: list[str]) -> list[str]:
        missing = [name for name in self._entry.classes if name not in values]
        if missing:
            known = ", ".join(list(values)[:SHOWN])
            raise EvaluationError(f"{self._entry.name}: no column for the class {missing[0]!r}; there are {known}")
        return [name for name in self._entry.classes if (as_text(values[name]) or "").lower() in yes]

    def _place(self, label: str, group: str | None = None) -> int:
        place = self._places.get(label)
        if place is None or (self._groups and place not in self._groups.get(group or "", ())):
            self._unknown[label, group] += 1
            return 0
        return place


def _shown(label: str, group: str | None) -> str:
    return repr(label) if group is None else f"{label!r} in group {group!r}"


def _texts(values: Mapping[str, Any], path: list[str]) -> list[str]:
    return [text for text in map(as_text, values_at(values, path) or ()) if text is not None]
