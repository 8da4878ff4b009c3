"""Parts of the report about single results: confusion of classes, failures, results of searches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaluate.results.examples import Example, examples_in
from evaluate.results.record import ResultRecord

MOST_CLASSES = 16
"""Classes of a matrix that is shown whole; for more the most frequent confusions are listed."""
MOST_PAIRS = 12
MOST_EXAMPLES = 12
"""Examples of one result that are shown."""


def confusion(record: ResultRecord) -> dict[str, Any] | None:
    """Return how often each class was taken for each, as the template takes it; None if the record does not say."""
    counts, names = record.details.get("confusion"), record.details.get("classes")
    if not isinstance(counts, list) or not isinstance(names, list) or len(counts) != len(names):
        return None
    if not all(isinstance(line, list) and len(line) == len(names) for line in counts):
        return None
    title = f"{record.model.name} on {record.dataset.title}: rows are the true class, columns what was said"
    pairs = _pairs(counts, names) if len(names) > MOST_CLASSES else []
    return {"title": title, "names": names, "counts": counts, "pairs": pairs}


def _pairs(counts: Sequence[Sequence[int]], names: Sequence[str]) -> list[list[str]]:
    wrong = [
        (line[place] / sum(line), line[place], name, names[place])
        for row, (name, line) in enumerate(zip(names, counts, strict=True))
        for place in range(len(names))
        if place != row and line[place]
    ]
    return [
        [name, taken, f"{share:.0%} of its items ({count:,})"]
        for share, count, name, taken in sorted(wrong, key=lambda pair: (-pair[0], -pair[1]))[:MOST_PAIRS]
    ]


def gallery(record: ResultRecord, kind: str) -> list[Example] | None:
    """Return a result's examples of a kind; None if it has none."""
    return [example for example in examples_in(record.details) if example.kind == kind][:MOST_EXAMPLES] or None
