"""Draws how well probes do with few training items: one plot per test set, a line per model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from evaluate.metrics.registry import METRICS
from evaluate.report.wording import seeds_spread, short
from evaluate.results.record import ResultRecord
from store.report.elements import WIDTH, figure, table
from store.svg import line, points, shape, words

LEFT, RIGHT, TOP, BOTTOM = 34.0, WIDTH - 12.0, 12.0, 200.0
HEIGHT = 246.0
ORDER = ("teacher", "other", "oracle", "task_only", "student")
"""Order of drawing: what is drawn last lies on top."""

KEY = {"student": "student", "task_only": "no teachers", "teacher": "teachers"}
"""Roles that the key names, and what it calls them."""

Curve = Sequence[ResultRecord]
"""Results of one model on one test set, by ascending number of training items."""

Place = Callable[[int, float], tuple[float, float]]
"""Turns a number of training items and a value into a place of the drawing."""


def training_items(record: ResultRecord) -> int | None:
    """Return the number of items that a probe was trained on (mean over seeds), None if its record does not say."""
    amount = record.details.get("amount")
    count = amount.get("num_train") if isinstance(amount, dict) else None
    return round(count) if isinstance(count, int | float) and count >= 1 else None


def probe_curves(name: str, curves: Mapping[str, Curve]) -> Markup:
    """Return the plot of one test set.

    Args:
        curves: by model; each record says its ``training_items``.
    """
    known = [record for curve in curves.values() for record in curve]
    counts = [training_items(record) or 1 for record in known]
    ends = [end for record in known for end in (record.value, record.metrics[record.primary].low) if end is not None]
    low = max(0.0, math.floor(10 * min(ends)) / 10)
    across = (math.log(min(counts)), math.log(max(*counts, min(counts) + 1)))

    def place(count: int, value: float) -> tuple[float, float]:
        share = (math.log(count) - across[0]) / (across[1] - across[0])
        height = (max(value, low) - low) / (1 - low) if low < 1 else 0.0
        return LEFT + (RIGHT - LEFT) * share, BOTTOM - (BOTTOM - TOP) * height

    drawing = _axes(low, sorted(set(counts)), place)
    for model in sorted(curves, key=lambda one: (ORDER.index(curves[one][0].model.role), one)):
        drawing += _curve(curves[model], place)
    first = known[0]
    title = first.dataset.title
    return figure(
        name,
        title=title,
        caption=f"{METRICS[first.primary].title} of linear probes by the number of training items. "
        "Blue: student, with its 95 % intervals; dashed: the student without teachers; grey: teachers.",
        description=f"{title}: the table below has every value.",
        height=HEIGHT,
        drawing=[*drawing, *_key()],
        table=_table(title, curves),
    )


def _curve(curve: Curve, place: Place) -> list[Markup]:
    at = [(training_items(record) or 1, record) for record in curve]
    role = curve[0].model.role
    drawn = shape("polyline", points=points([place(count, one.value) for count, one in at]), class_=f"probe {role}")
    ends = [(count, one.metrics[one.primary]) for count, one in at]
    whole = [(count, one.low, one.high) for count, one in ends if one.low is not None and one.high is not None]
    if role != "student" or len(whole) < len(at):
        return [drawn]
    outline = [place(count, high) for count, _, high in whole]
    outline += [place(count, low) for count, low, _ in reversed(whole)]
    return [shape("polygon", points=points(outline), class_="probe-band"), drawn]


def _axes(low: float, counts: Sequence[int], place: Place) -> list[Markup]:
    drawing = []
    for value in (low, (1 + low) / 2, 1.0):
        y = place(counts[0], value)[1]
        drawing += [
            line(LEFT, y, RIGHT, y, class_="grid"),
            words(LEFT - 5, y + 4, f"{value:.2f}", class_="tick", anchor="end"),
        ]
    shown = -math.inf
    for count in counts:
        x = place(count, low)[0]
        drawing.append(line(x, BOTTOM, x, BOTTOM + 4, class_="axis"))
        if x - shown >= 34:  # room for the number before
            drawing.append(words(x, BOTTOM + 15, f"{count:,}", class_="tick", anchor="middle"))
            shown = x
    return [*drawing, words((LEFT + RIGHT) / 2, BOTTOM + 29, "training items", class_="tick", anchor="middle")]


def _key() -> list[Markup]:
    drawing: list[Markup] = []
    for number, (role, text) in enumerate(KEY.items()):
        x, y = LEFT + 100.0 * number, BOTTOM + 42
        drawing.append(shape("polyline", points=points([(x, y - 4), (x + 22, y - 4)]), class_=f"probe {role}"))
        drawing.append(words(x + 27, y, text))
    return drawing


def _table(title: str, curves: Mapping[str, Curve]) -> Markup:
    counts = sorted({training_items(record) or 1 for curve in curves.values() for record in curve})
    rows = []
    for model in sorted(curves, key=lambda one: (-ORDER.index(curves[one][0].model.role), one)):
        values = {training_items(record): record for record in curves[model]}
        cells = []
        for count in counts:
            record = values.get(count)
            metric = record.metrics[record.primary] if record else None
            spread = seeds_spread(record.seeds.get(record.primary)) if record else ""
            cells.append("–" if metric is None else f"{metric}{spread}")
        rows.append([short(model), *cells])
    return table(f"{title}: by training items", ["model", *(f"{count:,}" for count in counts)], rows, class_="numbers")
