"""Turns records into the columns of a split: maps fields, reads labels and numbers, gathers tiles into bags."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluate.datasets.formats.record import BagFile, Image, Record
from evaluate.datasets.formats.rules import BagFiles, SurvivalFiles
from evaluate.datasets.formats.values import band, is_missing, number
from store.corpus.fields import as_text, values_at
from store.errors import EvaluationError

from .entry import DatasetEntry, Subgroup
from .labels import YES_NO, Labels
from .loaded import Bag, Split
from .split_rules import SPLITS, By, SplitName, split_of
from .task_kinds import TASKS

NOT_STATED = "not stated"
"""The subgroup of items whose column is empty."""
MOST_SUBGROUPS = 20
"""Values of a column of subgroups; each is a metric with an interval of its own."""


@dataclass(kw_only=True, slots=True)
class Row:
    """One item; columns as in ``Split``.

    Attributes:
        bag: the slide that it is a tile of; None if it is an item itself.
        digests: SHA-256 of its images or features.
    """

    id: str
    split: SplitName
    bag: str | None = None
    patient: str | None = None
    group: str | None = None
    target: int | tuple[int, ...] | None = None
    caption: str | None = None
    question: str | None = None
    answer: str | None = None
    answer_type: str | None = None
    time: float | None = None
    event: bool | None = None
    features: tuple[float, ...] | None = None
    categories: tuple[str, ...] | None = None
    subgroups: tuple[str, ...] = ()
    images: tuple[Image, ...] = ()
    files: tuple[BagFile, ...] = ()
    digests: tuple[str, ...] = ()

    def content(self) -> list[Any]:
        """Return everything that decides a result, as JSON values."""
        texts = [self.caption, self.question, self.answer, self.answer_type]
        numbers = [self.time, self.event, None if self.features is None else list(map(repr, self.features))]
        target = list(self.target) if isinstance(self.target, tuple) else self.target
        # Columns that came later are added only where they are, so that digests of other datasets stay.
        further: list[Any] = [] if self.group is None else [self.group]
        further += [list(column) for column in (self.categories, self.subgroups) if column]
        return [self.split, self.id, self.patient, target, *texts, *numbers, list(self.digests), *further]


class RowReader:
    """Maps the fields of records."""

    def __init__(self, entry: DatasetEntry) -> None:
        self._entry, self._labels = entry, Labels(entry)
        self._paths = {name: path.split(".") for name, path in entry.fields.model_dump().items() if path}
        self._labelled = entry.labelled
        self._subgroups = entry.subgroups
        self._of_subgroup: dict[str, set[str]] = {}
        self._needed = [name for task in entry.tasks for name in TASKS[task].fields]
        self._seen: set[str] = set()
        self._names: list[str] = []

    def row(self, record: Record, digest: str | None) -> Row | str:
        """Return a record as a row, or the reason why it is left out, in the same words for all such records.

        Raises:
            EvaluationError: its split or a number is not what it should be.
        """
        texts = {name: self._text(record.values, name) for name in self._paths}
        self._names = self._names or list(record.values)
        for path, kept in self._entry.keep.items():
            if not {as_text(value) for value in values_at(record.values, path.split(".")) or ()} & set(kept):
                return f"ignored {path}"
        if record.problem:
            return record.problem
        name = texts.get("id") or record.id
        keys: dict[By, str | None] = {"image": digest, "patient": texts.get("patient"), "id": name}
        value = texts.get("split") if "split" in self._paths else as_text(record.values.get("split"))
        split = split_of(self._entry.split, value=value, file=record.file, keys=keys)
        if split is None:
            return "ignored split"
        target = self._labels.target(record.values, texts.get("group")) if self._labelled else None
        if self._labelled and target is None:
            return "ignored label"
        missing = next((f"no {field}" for field in self._needed if texts.get(field) in {None, ""}), None)
        features, categories = self._table(record.values, name)
        if self._entry.missing == "drop" and ("" in (categories or ()) or any(map(math.isnan, features or ()))):
            missing = missing or "ignored missing value"
        if missing:
            return missing
        return Row(
            id=name,
            split=split,
            bag=self._bag(texts),
            patient=texts.get("patient"),
            group=texts.get("group"),
            target=target,
            caption=texts.get("caption"),
            question=texts.get("question"),
            answer=texts.get("answer"),
            answer_type=self._answer_type(texts, name),
            time=self._time(texts.get("time"), name),
            event=self._event(texts.get("event"), name),
            features=features,
            categories=categories,
            subgroups=tuple(
                self._subgroup(record.values, name, group, rule) for group, rule in self._subgroups.items()
            ),
            images=(record.image,) if record.image else (),
            files=(record.bag,) if record.bag else (),
            digests=(digest,) if digest else (),
        )

    def finish(self) -> None:
        """Raise an EvaluationError that names columns that no record had, or labels that are not listed."""
        absent = [f"fields.{name}: {'.'.join(path)!r}" for name, path in self._paths.items() if name not in self._seen]
        absent += [
            f"subgroups.{name}: {rule.column or name!r}"
            for name, rule in self._subgroups.items()
            if f"subgroups.{name}" not in self._seen
        ]
        if absent and self._names:
            known = ", ".join(self._names[:12])
            raise EvaluationError(f"{self._entry.name}: no record has {', '.join(absent)}; there are {known}")
        self._labels.finish()

    def _text(self, values: Mapping[str, Any], name: str) -> str | None:
        found = values_at(values, self._paths[name])
        if found is not None:
            self._seen.add(name)
        return next((text for text in map(as_text, found or ()) if text is not None), None)

    def _bag(self, texts: Mapping[str, str | None]) -> str | None:
        if "bag" in self._paths:
            return texts["bag"]
        by_patient = isinstance(self._entry.read, BagFiles) and self._entry.read.per == "patient"
        return texts.get("patient") if by_patient else None

    def _answer_type(self, texts: Mapping[str, str | None], item: str) -> str | None:
        if "vqa" not in self._entry.tasks:
            return None
        if "answer_type" not in self._paths:
            return "closed" if (texts["answer"] or "").strip().lower() in YES_NO else "open"
        stated = (texts["answer_type"] or "").strip().lower()
        if stated not in {"open", "closed"}:
            raise EvaluationError(
                f"{self._entry.name}: {item}: expected the answer type open or closed, got {stated!r}"
            )
        return stated

    def _time(self, text: str | None, item: str) -> float | None:
        if text is None or "survival" not in self._entry.tasks:
            return None
        time = self._number(text, item, "time")
        if not (math.isfinite(time) and time >= 0):
            raise EvaluationError(f"{self._entry.name}: {item}: expected a time of 0 or more, got {text!r}")
        return time

    def _event(self, text: str | None, item: str) -> bool | None:
        if text is None or "survival" not in self._entry.tasks:
            return None
        if text in self._entry.event_values or text in self._entry.censored_values:
            return text in self._entry.event_values
        expected = ", ".join([*self._entry.event_values, *self._entry.censored_values])
        raise EvaluationError(
            f"{self._entry.name}: {item}: the event column says {text!r}; expected one of {expected}",
            hint=f"say what it means in {self._entry.name}.yaml: event_values and censored_values",
        )

    def _table(self, values: Mapping[str, Any], item: str) -> tuple[tuple[float, ...] | None, tuple[str, ...] | None]:
        """Return the numbers and the words of a row of a table of features; None for other formats."""
        read = self._entry.read
        if not isinstance(read, SurvivalFiles):
            return None, None
        absent = [name for name in (*read.features, *read.categories) if name not in values]
        if absent:
            raise EvaluationError(f"{self._entry.name}: there is no column of features {absent[0]!r}")
        words = [as_text(values[name]) or "" for name in read.categories]
        return (
            tuple(self._number(as_text(values[name]) or "", item, name) for name in read.features),
            tuple("" if is_missing(word) else word for word in words),
        )

    def _subgroup(self, values: Mapping[str, Any], item: str, name: str, rule: Subgroup) -> str:
        found = values_at(values, (rule.column or name).split("."))
        if found is not None:
            self._seen.add(f"subgroups.{name}")
        text = next((text for text in map(as_text, found or ()) if text), "")
        where = f"{self._entry.name}: subgroups.{name}"
        if is_missing(text):
            return NOT_STATED
        if rule.bands:
            return band(self._number(text, item, f"subgroups.{name}"), rule.bands)
        known = self._of_subgroup.setdefault(name, set())
        known.add(text)
        if len(known) > MOST_SUBGROUPS:
            raise EvaluationError(
                f"{where}: the column has more than {MOST_SUBGROUPS} values, such as {', '.join(sorted(known)[:3])}",
                hint=f"of a number, say its bands: {{{name}: {{bands: [40, 60]}}}}; of words, take a coarser column",
            )
        return text

    def _number(self, text: str, item: str, column: str) -> float:
        """Return the number of a cell, NaN where it is missing; it must not be infinite."""
        found = number(text, f"{self._entry.name}: {item}: {column}")
        if math.isinf(found):
            raise EvaluationError(f"{self._entry.name}: {item}: {column}: expected a finite number, got {text!r}")
        return found


def in_bags(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield rows, those of one bag joined into one that has the images or features of all.

    Raises:
        EvaluationError: rows of a bag differ in their label, split, patient or time.
    """
    bags: dict[str, list[Row]] = {}
    for row in rows:
        if row.bag is None:
            yield row
        else:
            bags.setdefault(row.bag, []).append(row)
    for name, members in bags.items():
        first = members[0]
        for column in ("split", "patient", "target", "time", "event", "subgroups"):
            values = list(dict.fromkeys(getattr(member, column) for member in members))
            if len(values) > 1:
                raise EvaluationError(f"the parts of {name!r} differ in {column}: {', '.join(map(str, values[:5]))}")
        yield Row(
            id=name,
            split=first.split,
            bag=name,
            patient=first.patient,
            target=first.target,
            time=first.time,
            event=first.event,
            subgroups=first.subgroups,
            images=tuple(image for member in members for image in member.images),
            files=tuple(file for member in members for file in member.files),
            digests=tuple(digest for member in members for digest in member.digests),
        )


def as_splits(entry: DatasetEntry, rows: Iterable[Row]) -> dict[SplitName, Split]:
    """Return the splits that have items."""
    by_split: dict[SplitName, list[Row]] = {name: [] for name in SPLITS}
    for row in rows:
        by_split[row.split].append(row)
    return {name: _split(name, entry, members) for name, members in by_split.items() if members}


def _split(name: SplitName, entry: DatasetEntry, rows: list[Row]) -> Split:
    def column(of: str, kind: Callable[[list[Any]], Any] = list) -> Any:
        values = [getattr(row, of) for row in rows]
        return None if all(value is None for value in values) else kind(values)

    are_bags = rows[0].bag is not None or bool(rows[0].files)
    with_images = bool(rows[0].images) and not are_bags
    return Split(
        name=name,
        ids=[row.id for row in rows],
        patients=[row.patient or row.id for row in rows] if entry.fields.patient else None,
        groups=column("group"),
        targets=_targets(entry, rows),
        captions=column("caption"),
        questions=column("question"),
        answers=column("answer"),
        answer_types=column("answer_type"),
        times=column("time", lambda values: np.array(values, dtype=np.float64)),
        events=column("event", lambda values: np.array(values, dtype=bool)),
        features=column("features", lambda values: np.array(values, dtype=np.float64)),
        categories=column("categories", _words),
        subgroups={name: [row.subgroups[place] for row in rows] for place, name in enumerate(entry.subgroups)} or None,
        images=[row.images[0] for row in rows] if with_images else None,
        image_digests=[row.digests[0] for row in rows] if with_images else None,
        bags=[Bag(files=row.files, images=row.images, digests=row.digests) for row in rows] if are_bags else None,
    )


def _words(values: list[Any]) -> Any:
    """Return rows of words, (N, K)."""
    return np.array(values, dtype=object).reshape(len(values), -1)


def _targets(entry: DatasetEntry, rows: list[Row]) -> Any:
    if rows[0].target is None:
        return None
    if entry.multi_label is None:
        return np.array([row.target for row in rows], dtype=np.int64)
    targets_NC = np.zeros((len(rows), len(entry.classes)), dtype=np.uint8)
    for place, row in enumerate(rows):
        targets_NC[place, np.array(row.target, dtype=np.int64)] = 1
    return targets_NC
