"""Draws the accuracy of every model in each group of a dataset, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from evaluate.metrics.bootstrap import Interval
from evaluate.metrics.registry import IN_GROUP
from evaluate.report.boards import ROLE_ORDER
from evaluate.report.wording import short, with_interval
from evaluate.results.record import ResultRecord
from store.report.elements import WIDTH, figure, table
from store.svg import line, shape, words

ROW, TOP = 20, 14
LEFT, RIGHT = 128.0, 296.0
KEY = "Dots are values, bars 95 % intervals of the test set; the student's are filled."


def group_plots(name: str, records: Sequence[ResultRecord]) -> list[Markup]:
    """Return a drawing of the mean over the groups of one dataset, then one of each group."""
    ordered = sorted(records, key=lambda one: (ROLE_ORDER.index(one.model.role), -one.value))
    groups = list(dict.fromkeys(group for one in ordered for group in one.details["groups"]))
    wanted = {"mean over groups": "group_accuracy"} | {group: f"{IN_GROUP}{group}" for group in groups}
    return [
        _plot(f"{name}-{place}", title, [(one, one.metrics[metric]) for one in ordered if metric in one.metrics])
        for place, (title, metric) in enumerate(wanted.items())
    ]


def _plot(name: str, title: str, rows: Sequence[tuple[ResultRecord, Interval]]) -> Markup:
    bottom = float(TOP + ROW * len(rows))
    drawing = [line(_x(share), 4, _x(share), bottom, class_="grid") for share in (0, 0.5, 1)]
    drawing += [words(_x(share), bottom + 12, f"{share:g}", class_="tick", anchor="middle") for share in (0, 0.5, 1)]
    for place, (record, found) in enumerate(rows):
        drawing += _row(record, found, TOP + ROW * place)
    texts = [[record.model.name, record.model.role.replace("_", " "), with_interval(found)] for record, found in rows]
    return figure(
        name,
        title=title,
        caption=KEY,
        description="; ".join(f"{model} {text}" for model, _, text in texts),
        height=bottom + 16,
        drawing=drawing,
        table=table(title, ["model", "role", "accuracy [95 %]"], texts, class_="numbers"),
    )


def _row(record: ResultRecord, found: Interval, y: float) -> list[Markup]:
    ours = record.model.role == "student"
    value = "–" if found.value is None else f"{found.value:.2f}"
    drawing = [
        words(0, y + 4, short(record.model.name)[:22], class_="label strong" if ours else "label"),
        words(WIDTH, y + 4, value, class_="label value", anchor="end"),
    ]
    verdict = " better" if ours else ""
    if found.low is not None and found.high is not None:
        drawing.append(line(_x(found.low), y, _x(found.high), y, class_=f"bar{verdict}"))
    if found.value is not None:
        drawing.append(shape("circle", cx=_x(found.value), cy=float(y), r=4.0, class_=f"mark{verdict}"))
    return drawing


def _x(share: float) -> float:
    return LEFT + (RIGHT - LEFT) * share
