"""What the report shows of single results: confusion of classes, failures, what a search found."""

from __future__ import annotations

from collections.abc import Sequence

from evaluate.results.examples import Candidate, Example, examples_in
from evaluate.results.record import ResultRecord

from .figures import scrolling, table, table_caption
from .markup import Markup, raw, tag

MOST_CLASSES = 16
"""Of a matrix that is shown whole; of more classes the most frequent confusions are listed."""
MOST_PAIRS = 12
SHADES = 5
MOST_EXAMPLES = 12
"""Of a result."""


def confusion(record: ResultRecord) -> Markup | None:
    """Return how often each class was taken for each, as a shaded table; None if the record does not say."""
    found = _counted(record)
    if found is None:
        return None
    counts, names = found
    title = f"{record.model.name} on {record.dataset.title}: rows are the true class, columns what was said"
    if len(names) > MOST_CLASSES:
        return _pairs(title, counts, names)
    head = tag("tr", tag("th", "true class", scope="col"), [tag("th", name, scope="col") for name in names])
    rows = []
    for row, (name, line) in enumerate(zip(names, counts, strict=True)):
        total = sum(line)
        cells = [
            tag("td", _share(count, total), class_=f"h{_shade(count, total)}{' right' if row == place else ''}")
            for place, count in enumerate(line)
        ]
        rows.append(tag("tr", tag("th", name, tag("small", f"{total:,} items"), scope="row"), cells))
    inner = tag("table", table_caption(title), tag("thead", head), tag("tbody", rows), class_="heat")
    return scrolling(inner, label=title)


def _counted(record: ResultRecord) -> tuple[list[list[int]], list[str]] | None:
    counts, names = record.details.get("confusion"), record.details.get("classes")
    if not isinstance(counts, list) or not isinstance(names, list) or len(counts) != len(names):
        return None
    if not all(isinstance(line, list) and len(line) == len(names) for line in counts):
        return None
    return counts, [str(name) for name in names]


def _share(count: int, total: int) -> list[Markup | str]:
    if not total:
        return ["–"]
    return [f"{count / total:.0%}", tag("small", f"{count:,}")] if count else ["0"]


def _shade(count: int, total: int) -> int:
    return min(SHADES - 1, int(SHADES * count / total)) if total else 0


def _pairs(title: str, counts: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    wrong = [
        (line[place] / sum(line), line[place], name, names[place])
        for row, (name, line) in enumerate(zip(names, counts, strict=True))
        for place in range(len(names))
        if place != row and line[place]
    ]
    rows = [
        [name, taken, f"{share:.0%} of its items ({count:,})"]
        for share, count, name, taken in sorted(wrong, key=lambda pair: (-pair[0], -pair[1]))[:MOST_PAIRS]
    ]
    return table(f"{title}: the most frequent of {len(names)} classes", ["true class", "taken for", "how often"], rows)


def gallery(record: ResultRecord, kind: str) -> Markup | None:
    """Return a result's examples of a kind as cards; None if it has none."""
    found = [example for example in examples_in(record.details) if example.kind == kind][:MOST_EXAMPLES]
    if not found:
        return None
    return tag("ul", [tag("li", _card(example), class_="card") for example in found], class_="cards", role="list")


def _card(example: Example) -> list[Markup | None]:
    facts = [("test item", tag("code", example.id))]
    if example.question is not None:
        facts.append(("asked", tag("span", example.question)))
    facts.append(("right", tag("span", example.target)))
    facts.append(("said", tag("span", example.predicted, class_="better" if example.correct else "worse")))
    listed = tag("dl", [[tag("dt", name), tag("dd", value)] for name, value in facts])
    found = tag("ol", [tag("li", _candidate(one)) for one in example.candidates]) if example.candidates else None
    return [_picture(example.thumbnail_jpeg_base64, f"test image {example.id}"), tag("div", listed, found)]


def _candidate(candidate: Candidate) -> list[Markup | str | None]:
    mark = tag("span", "✓ right" if candidate.correct else "✗ wrong", class_="better" if candidate.correct else "worse")
    score = tag("small", f" {candidate.score:.3f}") if candidate.score is not None else None
    picture = _picture(candidate.thumbnail_jpeg_base64, f"image {candidate.text}")
    return [mark, " ", candidate.text, score, picture]


def _picture(thumbnail: str | None, alternative: str) -> Markup | None:
    if thumbnail is None:
        return None
    # Lazily decoded: a report may hold hundreds.
    return raw(tag("img", src=f"data:image/jpeg;base64,{thumbnail}", alt=alternative, loading="lazy", decoding="async"))
