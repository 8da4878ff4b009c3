"""Kaplan-Meier curves of patients whom a model calls of low and of high risk, as the survival task keeps them."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from evaluate.report.wording import p_value
from evaluate.results.record import ResultRecord
from store.report.elements import WIDTH, figure, table
from store.svg import line, points, shape, words

LEFT, RIGHT = 34.0, WIDTH - 10.0
TOP, BOTTOM = 14.0, 184.0
HEIGHT = 216.0
ROWS = 6
"""Points in time of the table; the drawing has every step."""
GROUPS = ("low", "high")


def kaplan_meier(name: str, record: ResultRecord) -> Markup | None:
    """Return the curves of a result as a plot; None if it has none."""
    curves = record.details.get("kaplan_meier")
    if not isinstance(curves, dict) or not all(_is_curve(curves.get(group)) for group in GROUPS):
        return None
    last = max(max(curve["time"], default=0.0) for curve in curves.values())
    if last <= 0:
        return None
    test = record.details.get("log_rank")
    judged = (
        "There is one group only: no log-rank test." if test is None else f"Log-rank p {p_value(test['p'], sign=True)}."
    )
    sizes = ", ".join(f"{group} risk n = {curves[group]['n']:,}" for group in GROUPS)
    title = f"{record.model.name} on {record.dataset.title}"
    rows = _rows(curves, last)
    return figure(
        name,
        title=title,
        caption=f"Share without the event by time; {sizes}, told apart by the median risk in training. {judged}",
        description=f"At the end {rows[-1][1]} of low and {rows[-1][3]} of high risk are without the event. {judged}",
        height=HEIGHT,
        drawing=[*_axes(last), *(_curve(curves[group], last, group) for group in GROUPS), *_key()],
        table=table(title, ["time", "low risk", "at risk", "high risk", "at risk"], rows, class_="numbers"),
    )


def _is_curve(curve: object) -> bool:
    if not isinstance(curve, dict) or not {"n", "time", "survival", "at_risk"} <= set(curve):
        return False
    return len(curve["time"]) == len(curve["survival"]) == len(curve["at_risk"])


def _place(time: float, share: float, last: float) -> tuple[float, float]:
    return LEFT + (RIGHT - LEFT) * time / last, BOTTOM - (BOTTOM - TOP) * share


def _curve(curve: Mapping[str, Any], last: float, group: str) -> Markup:
    steps = [_place(0, 1, last)]
    share = 1.0
    for time, lower in zip(curve["time"], curve["survival"], strict=True):
        steps += [_place(time, share, last), _place(time, lower, last)]
        share = lower
    return shape("polyline", points=points(steps), class_=f"curve {group}")


def _axes(last: float) -> list[Markup]:
    drawing = [line(LEFT, BOTTOM, RIGHT, BOTTOM, class_="axis")]
    for share in (0.0, 0.5, 1.0):
        y = _place(0, share, last)[1]
        drawing += [
            line(LEFT, y, RIGHT, y, class_="grid"),
            words(LEFT - 5, y + 4, f"{share:.0%}", class_="tick", anchor="end"),
        ]
    for part, anchor in ((0.0, "middle"), (0.5, "middle"), (1.0, "end")):
        x = _place(part * last, 0, last)[0]
        drawing.append(words(x, BOTTOM + 14, f"{part * last:.4g}", class_="tick", anchor=anchor))
    return [*drawing, words((LEFT + RIGHT) / 2, BOTTOM + 28, "time", class_="tick", anchor="middle")]


def _key() -> list[Markup]:
    drawing = []
    for place, group in enumerate(GROUPS):
        y = BOTTOM - 26 + 15 * place
        drawing.append(shape("polyline", points=points([(LEFT + 8, y), (LEFT + 34, y)]), class_=f"curve {group}"))
        drawing.append(words(LEFT + 40, y + 4, f"{group} risk"))
    return drawing


def _rows(curves: Mapping[str, Any], last: float) -> list[list[str]]:
    rows = []
    for part in range(ROWS + 1):
        time = last * part / ROWS
        cells = [f"{time:.4g}"]
        for group in GROUPS:
            share, left = _at(curves[group], time)
            cells += [f"{share:.0%}", f"{left:,}"]
        rows.append(cells)
    return rows


def _at(curve: Mapping[str, Any], time: float) -> tuple[float, int]:
    """Return the share without the event at a time, and how many were still watched just before the next step."""
    place = bisect.bisect_right(curve["time"], time)
    share = curve["survival"][place - 1] if place else 1.0
    return share, curve["at_risk"][place] if place < len(curve["at_risk"]) else 0
