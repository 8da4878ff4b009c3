"""The report's plots: radar, forest plot, critical-difference diagram. Pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from evaluate.metrics.bootstrap import Interval
from evaluate.metrics.model_ranks import Ranking
from evaluate.metrics.paired_tests import Difference
from evaluate.metrics.registry import METRICS

from .comparison import Comparison, Verdict
from .figures import WIDTH, figure, line, points, shape, table, words
from .wording import in_words, number, p_value, short, with_interval

RADAR_CENTRE = (170.0, 106.0)
RADAR_RADIUS = 84.0
RADAR_HEIGHT = 216
FEWEST_AXES = 3
"""A radar of two axes is a line."""

FOREST_ROW = 36
FOREST_TOP = 26
FOREST_KEY = "Bars are 95 % intervals of the paired difference; filled marks differ after Holm's correction."
FOREST_LEFT, FOREST_RIGHT = 8.0, WIDTH - 8.0

RANK_LEFT, RANK_RIGHT = 128.0, 268.0
RANK_ROW = 22


def radar(name: str, *, title: str, values: Mapping[str, Interval], best: Mapping[str, float], low: float) -> Markup:
    """Return a radar of one model: a value per modality, before the outline of the best model of each.

    Args:
        values: by modality, between low and 1.
        best: by modality, the largest value of any model.
        low: the value at the centre.
    """
    modalities = list(values)
    centre = ", ".join(f"{modality} {with_interval(values[modality])}" for modality in modalities)
    drawing = [
        shape("circle", cx=RADAR_CENTRE[0], cy=RADAR_CENTRE[1], r=RADAR_RADIUS * part, class_="grid")
        for part in (1 / 3, 2 / 3, 1.0)
    ]
    for place, modality in enumerate(modalities):
        x, y = _on_radar(place, len(modalities), 1.0)
        drawing.append(line(*RADAR_CENTRE, x, y, class_="grid"))
        drawing.append(_axis_name(place, len(modalities), modality))
    drawing += [
        shape("polygon", points=_outline([best[modality] for modality in modalities], low), class_="best-outline"),
        shape(
            "polygon", points=_outline([values[modality].value or low for modality in modalities], low), class_="shape"
        ),
        words(RADAR_CENTRE[0] + 4, RADAR_CENTRE[1] + 4, f"{low:.1f}", class_="tick"),
        words(RADAR_CENTRE[0] + 4, RADAR_CENTRE[1] - RADAR_RADIUS + 12, "1.0", class_="tick"),
    ]
    rows = [[modality, with_interval(values[modality]), number(best[modality])] for modality in modalities]
    return figure(
        name,
        title=title,
        caption=f"Dashed: the best model of each modality. The centre is {low:.1f}.",
        description=f"By modality: {centre}.",
        height=RADAR_HEIGHT,
        drawing=drawing,
        table=table(title, ["modality", "mean [95 %]", "best of all models"], rows, class_="numbers"),
    )


def _on_radar(place: int, count: int, share: float) -> tuple[float, float]:
    angle = 2 * math.pi * place / count
    return (
        RADAR_CENTRE[0] + RADAR_RADIUS * share * math.sin(angle),
        RADAR_CENTRE[1] - RADAR_RADIUS * share * math.cos(angle),
    )


def _outline(values: Sequence[float], low: float) -> str:
    shares = [max(0.0, (value - low) / (1 - low)) for value in values]
    return points([_on_radar(place, len(values), share) for place, share in enumerate(shares)])


def _axis_name(place: int, count: int, modality: str) -> Markup:
    x, y = _on_radar(place, count, 1.08)
    across = x - RADAR_CENTRE[0]
    anchor = "middle" if abs(across) < 5 else "start" if across > 0 else "end"
    below = 9.0 if y > RADAR_CENTRE[1] + 5 else 0.0 if y < RADAR_CENTRE[1] - 5 else 4.0
    return words(x, y + below, modality, anchor=anchor)


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
    sides = words(_x(0, reach) - 6, 11, f"◀ {short(second)[:18]} better", class_="tick", anchor="end")
    ours = words(_x(0, reach) + 6, 11, f"{short(first)[:18]} better ▶", class_="tick")
    zero = line(_x(0, reach), 4, _x(0, reach), y - 6, class_="zero")
    return figure(
        name,
        title=f"{first} against {second}",
        caption=f"{_tally(comparison)} {FOREST_KEY}",
        description=f"{_tally(comparison)} {_means(comparison)}",
        height=y + 16,
        drawing=[zero, sides, ours, *drawing, *_forest_axis(y, reach)],
        table=_forest_table(comparison),
        beside=True,
    )


def _tally(comparison: Comparison) -> str:
    verdicts: tuple[Verdict, ...] = ("better", "undecided", "worse")
    counts = ", ".join(f"{verdict} on {comparison.count(verdict)}" for verdict in verdicts)
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


def ranks_plot(name: str, *, title: str, ranking: Ranking) -> Markup:
    """Return a critical-difference diagram: mean ranks, and bars over models that are not told apart."""
    count = len(ranking.models)
    top = 48.0
    bottom = top + RANK_ROW * count
    drawing = [line(RANK_LEFT, top - 10, RANK_RIGHT, top - 10, class_="axis")]
    for rank in sorted({1, (1 + count) // 2, count}):
        at = _rank_x(rank, count)
        drawing.append(line(at, top - 14, at, bottom - 8, class_="grid"))
        drawing.append(words(at, top - 18, str(rank), class_="tick", anchor="middle"))
    if ranking.critical_difference is not None:
        drawing += _critical_bar(ranking.critical_difference, count)
    for place, (model, mean) in enumerate(zip(ranking.models, ranking.mean_ranks, strict=True)):
        y = top + RANK_ROW * place + 8
        drawing.append(words(RANK_LEFT - 8, y, short(model)[:19], anchor="end"))
        drawing.append(line(RANK_LEFT, y - 4, _rank_x(mean, count), y - 4, class_="stem"))
        drawing.append(shape("circle", cx=_rank_x(mean, count), cy=y - 4, r=4.5, class_="mark shape-dot"))
        drawing.append(words(_rank_x(mean, count) + 8, y, f"{mean:.2f}", class_="tick"))
    for number_, (start, end) in enumerate(ranking.groups):
        x = RANK_RIGHT + 30 + 9 * (number_ % 5)
        drawing.append(line(x, top + RANK_ROW * start, x, top + RANK_ROW * end + 8, class_="group"))
    rows: list[list[str]] = [
        [model, f"{mean:.2f}"] for model, mean in zip(ranking.models, ranking.mean_ranks, strict=True)
    ]
    return figure(
        name,
        title=title,
        caption=_ranks_in_short(ranking),
        description=_ranks_in_words(ranking),
        height=bottom + 4,
        drawing=drawing,
        table=table(title, ["model", f"mean rank over {ranking.datasets} test sets"], rows),
    )


def _rank_x(rank: float, count: int) -> float:
    return RANK_LEFT + (RANK_RIGHT - RANK_LEFT) * (rank - 1) / max(1, count - 1)


def _critical_bar(critical: float, count: int) -> list[Markup]:
    wide = min(1 + critical, count)
    return [
        line(_rank_x(1, count), 12, _rank_x(wide, count), 12, class_="group"),
        words(RANK_LEFT - 8, 16, f"critical diff. {critical:.2f}", class_="tick", anchor="end"),
    ]


def _ranks_in_short(ranking: Ranking) -> str:
    said = f"Mean rank over {ranking.datasets} test sets; 1 is the best."
    if ranking.p is not None:
        said += f" Friedman's test that all are equal: p {p_value(ranking.p, sign=True)}."
    return f"{said} Bars join models whose ranks are not told apart (Nemenyi, 5 %)."


def _ranks_in_words(ranking: Ranking) -> str:
    ranks = ", ".join(f"{name} {mean:.2f}" for name, mean in zip(ranking.models, ranking.mean_ranks, strict=True))
    groups = "; ".join(", ".join(ranking.models[start : end + 1]) for start, end in ranking.groups)
    return f"Mean ranks: {ranks}. Not told apart: {groups or 'none'}."
