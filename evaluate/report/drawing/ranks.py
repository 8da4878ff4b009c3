"""Draws mean ranks of models as a critical-difference diagram."""

from __future__ import annotations

from markupsafe import Markup

from evaluate.metrics.model_ranks import Ranking
from evaluate.report.wording import p_value, short
from store.report.elements import figure, table
from store.svg import line, shape, words

RANK_LEFT, RANK_RIGHT = 128.0, 268.0
RANK_ROW = 22


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
