"""Draws paired differences of models with their intervals, one below the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from evaluate.metrics.paired_tests import Difference
from evaluate.metrics.registry import METRICS
from evaluate.report.comparison import Comparison, Verdict
from evaluate.report.wording import in_words, p_value, short, with_interval
from store.report.elements import WIDTH, figure, table
from store.svg import line, points, shape, words

VERDICTS: tuple[Verdict, ...] = ("better", "undecided", "worse")
FOREST_ROW = 36
FOREST_TOP = 26
FOREST_KEY = "Bars are 95 % intervals of the paired difference; filled marks differ after Holm's correction."
HEADLINE_KEY = (
    "Mean difference over the test sets that both have, each of the same weight; probes with few items are left "
    "out. Bars are 95 % intervals; a filled mark is one whose interval excludes 0. The table counts test sets after "
    "Holm's correction."
)
FOREST_LEFT, FOREST_RIGHT = 8.0, WIDTH - 8.0


def forest(name: str, comparison: Comparison) -> Markup:
    """Return a forest plot: the differences of two models on each test set, with intervals, and their means by task."""
    first, second = comparison.first, comparison.second
    reach = _reach([row.difference for row in comparison.rows])
    drawing: list[Markup] = []
    y = float(FOREST_TOP)
    for task, mean in comparison.means.items():
        rows = [row for row in comparison.rows if row.task == task]
        drawing.append(words(FOREST_LEFT, y, in_words(task), class_="label strong"))
        y += 20
        for row in rows:
            drawing += _forest_row(row.title, row.difference, y, reach, verdict=row.verdict)
            y += FOREST_ROW
        if len(rows) > 1:
            drawing += _forest_row(f"mean of {len(rows)}", mean, y, reach, verdict="mean")
            y += FOREST_ROW
        y += 6
    sides = _sides(f"{short(second)[:18]} better", f"{short(first)[:18]} better", y, reach)
    return figure(
        name,
        title=f"{first} against {second}",
        caption=f"{_tally(comparison)} {FOREST_KEY}",
        description=f"{_tally(comparison)} {_means(comparison)}",
        height=y + 16,
        drawing=[*sides, *drawing, *_forest_axis(y, reach)],
        table=_forest_table(comparison),
        beside=True,
    )


def teachers_forest(name: str, comparisons: Sequence[Comparison]) -> Markup | None:
    """Return one student's mean differences to every teacher over their test sets; None where there are none."""
    rows = [(one, one.macro) for one in comparisons if one.macro is not None]
    if not rows:
        return None
    student = rows[0][0].first
    reach = _reach([macro for _, macro in rows])
    drawing: list[Markup] = []
    for place, (one, macro) in enumerate(rows):
        verdict = "better" if (macro.low or 0) > 0 else "worse" if (macro.high or 0) < 0 else "undecided"
        drawing += _forest_row(one.second, macro, FOREST_TOP + FOREST_ROW * place, reach, verdict=verdict)
    y = float(FOREST_TOP + FOREST_ROW * len(rows))
    heads = ["teacher", "mean difference [95 %]", "better", "undecided", "worse"]
    title = f"{student} against every teacher"
    table_rows = [
        [one.second, with_interval(macro, signed=True), *(str(one.count(verdict)) for verdict in VERDICTS)]
        for one, macro in rows
    ]
    return figure(
        name,
        title=title,
        caption=HEADLINE_KEY,
        description="; ".join(f"{one.second} {with_interval(macro, signed=True)}" for one, macro in rows),
        height=y + 16,
        drawing=[
            *_sides("the teacher is better", "the student is better", y, reach),
            *drawing,
            *_forest_axis(y, reach),
        ],
        table=table(title, heads, table_rows, class_="numbers"),
        beside=True,
    )


def _sides(left: str, right: str, y: float, reach: float) -> list[Markup]:
    """Return the line of no difference, and who is better on each side of it."""
    return [
        line(_x(0, reach), 4, _x(0, reach), y - 6, class_="zero"),
        words(_x(0, reach) - 6, 11, f"◀ {left}", class_="tick", anchor="end"),
        words(_x(0, reach) + 6, 11, f"{right} ▶", class_="tick"),
    ]


def _tally(comparison: Comparison) -> str:
    counts = ", ".join(f"{verdict} on {comparison.count(verdict)}" for verdict in VERDICTS)
    return f"{comparison.first} is {counts} of {len(comparison.rows)} test sets."


def _means(comparison: Comparison) -> str:
    means = [f"{in_words(task)} {with_interval(mean, signed=True)}" for task, mean in comparison.means.items()]
    return f"Mean differences: {'; '.join(means)}."


def _reach(differences: Sequence[Difference]) -> float:
    ends = [abs(end) for one in differences for end in (one.low, one.high, one.value) if end is not None]
    widest = max([0.01, *ends])
    step = 10.0 ** math.floor(math.log10(widest))
    return math.ceil(widest / step) * step


def _x(value: float, reach: float) -> float:
    middle, half = (FOREST_LEFT + FOREST_RIGHT) / 2, (FOREST_RIGHT - FOREST_LEFT) / 2
    return middle + half * max(-1.0, min(1.0, value / reach))


def _forest_row(title: str, found: Difference, y: float, reach: float, *, verdict: str) -> list[Markup]:
    text = with_interval(found, signed=True) if found.low is not None else "no interval"
    drawing = [
        words(FOREST_LEFT, y, short(title)[:26]),
        words(FOREST_RIGHT, y, text, class_="label value", anchor="end"),
    ]
    middle, at = _x(found.value, reach), y + 12
    if found.low is None or found.high is None:
        return drawing
    if verdict == "mean":
        corners = [(_x(found.low, reach), at), (middle, at - 5), (_x(found.high, reach), at), (middle, at + 5)]
        return [*drawing, shape("polygon", points=points(corners), class_="mark mean")]
    drawing.append(line(_x(found.low, reach), at, _x(found.high, reach), at, class_=f"bar {verdict}"))
    drawing.append(shape("circle", cx=middle, cy=at, r=4.5, class_=f"mark {verdict}"))
    return drawing


def _forest_axis(y: float, reach: float) -> list[Markup]:
    drawing = [line(FOREST_LEFT, y - 4, FOREST_RIGHT, y - 4, class_="axis")]
    for share, anchor in ((-1, "start"), (-0.5, "middle"), (0, "middle"), (0.5, "middle"), (1, "end")):
        at = _x(share * reach, reach)
        drawing.append(line(at, y - 4, at, y, class_="axis"))
        label = f"{share * reach:+.3g}".replace("-", "−") if share else "0"
        drawing.append(words(at, y + 12, label, class_="tick", anchor=anchor))
    return drawing


def _forest_table(comparison: Comparison) -> Markup:
    first, second = comparison.first, comparison.second
    heads = ["test set", "difference [95 %]", "p (Holm)", f"{first} is", "task", first, second, "metric", "n", "p"]
    rows = [
        [
            row.title,
            with_interval(row.difference, signed=True),
            p_value(row.p_holm),
            row.verdict,
            in_words(row.task),
            str(row.first),
            str(row.second),
            METRICS[row.metric].title,
            f"{row.n:,}",
            p_value(row.difference.p),
        ]
        for row in comparison.rows
    ]
    rows += [
        ["mean", with_interval(mean, signed=True), "", "", in_words(task), "", "", "", "", p_value(mean.p)]
        for task, mean in comparison.means.items()
    ]
    return table(f"{first} against {second}", heads, rows, class_="numbers")
