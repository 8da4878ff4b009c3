"""Draws whether a model's probabilities come true: share by mean probability of a bin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from evaluate.report.wording import number
from evaluate.results.record import ResultRecord
from store.report.elements import figure, table
from store.svg import line, points, shape, words

LEFT, TOP, SIDE = 70.0, 12.0, 200.0
HEIGHT = 258.0
PARTS = ("n", "probability", "share")
"""Numbers of each bin."""


def reliability(name: str, record: ResultRecord) -> Markup | None:
    """Return the reliability plot of a result; None if it has none."""
    said = record.details.get("reliability")
    bins = said.get("bins") if isinstance(said, dict) else None
    if not isinstance(said, dict) or not isinstance(bins, list) or not all(_is_bin(one) for one in bins) or not bins:
        return None
    title = f"{record.model.name} on {record.dataset.title}"
    largest = max(one["n"] for one in bins)
    marks = [
        shape("circle", cx=x, cy=y, r=2.5 + 4 * (one["n"] / largest) ** 0.5, class_="mark shape-dot")
        for one in bins
        for x, y in [_place(one["probability"], one["share"])]
    ]
    joined = shape(
        "polyline", points=points([_place(one["probability"], one["share"]) for one in bins]), class_="curve low"
    )
    rows = [[number(one["probability"]), number(one["share"]), f"{one['n']:,}"] for one in bins]
    return figure(
        name,
        title=title,
        caption=f"Probability of {said.get('of', 'the class that scores highest')}, and the share that came true. "
        "On the dashed line they are equal; a larger dot is of more items.",
        description="; ".join(f"{row[0]} came true in {row[1]}" for row in rows),
        height=HEIGHT,
        drawing=[*_axes(), joined, *marks],
        table=table(title, ["mean probability", "share that came true", "items"], rows, class_="numbers"),
    )


def _is_bin(one: object) -> bool:
    return isinstance(one, Mapping) and all(isinstance(one.get(name), int | float) for name in PARTS)


def _place(probability: float, share: float) -> tuple[float, float]:
    return LEFT + SIDE * probability, TOP + SIDE * (1 - share)


def _axes() -> Sequence[Markup]:
    drawing = [line(*_place(0, 0), *_place(1, 1), class_="zero")]
    for value in (0.0, 0.5, 1.0):
        (x, bottom), (left, y) = _place(value, 0), _place(0, value)
        drawing += [
            line(left, y, LEFT + SIDE, y, class_="grid"),
            words(left - 5, y + 4, f"{value:.0%}", class_="tick", anchor="end"),
            words(x, bottom + 14, f"{value:.0%}", class_="tick", anchor="middle"),
        ]
    return [*drawing, words(LEFT + SIDE / 2, TOP + SIDE + 30, "probability", class_="tick", anchor="middle")]
