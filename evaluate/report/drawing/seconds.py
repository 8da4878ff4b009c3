"""Draws where the time of a run of several stages went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from evaluate.report.wording import short
from store.report.elements import WIDTH, figure, table
from store.svg import shape, words

ROW, TOP = 24, 4
LEFT, RIGHT = 84.0, 290.0
MOST_PARTS = 4


@dataclass(kw_only=True, frozen=True, slots=True)
class Stage:
    """A stage of a run.

    Attributes:
        seconds: that passed, over all runs until it was done.
        parts: seconds of what it consists of, by name; parts that work side by side add up to more.
    """

    seconds: float
    parts: Mapping[str, float]


def seconds_plot(stages: Mapping[str, Stage]) -> Markup:
    """Return bars of the stages, and a table of what took the most time in each."""
    longest = max([1e-9, *(stage.seconds for stage in stages.values())])
    drawing: list[Markup] = []
    for place, (name, stage) in enumerate(stages.items()):
        y = float(TOP + ROW * place)
        width = (RIGHT - LEFT) * stage.seconds / longest
        drawing.append(words(0, y + 14, short(name)[:14]))
        drawing.append(shape("rect", x=LEFT, y=y + 2, width=width, height=float(ROW - 8), class_="shape"))
        drawing.append(words(WIDTH, y + 14, f"{stage.seconds:,.0f} s", class_="label value", anchor="end"))
    rows = [[name, f"{stage.seconds:,.0f}", _most(stage.parts)] for name, stage in stages.items()]
    return figure(
        "seconds",
        title="Seconds by stage",
        caption="Processes that work side by side share the cores, so that the parts of a stage may add up to more.",
        description="; ".join(f"{name} {stage.seconds:,.0f} s" for name, stage in stages.items()),
        height=TOP + ROW * len(stages) + 4,
        drawing=drawing,
        table=table("Seconds by stage", ["stage", "seconds", "of them the most"], rows),
        beside=True,
    )


def _most(parts: Mapping[str, float]) -> str:
    chosen: Sequence[str] = sorted(parts, key=lambda name: -parts[name])[:MOST_PARTS]
    rest = len(parts) - len(chosen)
    more = [f"{rest} more {sum(parts.values()) - sum(parts[name] for name in chosen):,.1f}"] if rest else []
    return ", ".join([*(f"{name} {parts[name]:,.1f}" for name in chosen), *more])
