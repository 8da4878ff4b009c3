"""Draws one model's means by modality as a radar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from evaluate.metrics.bootstrap import Interval
from evaluate.report.wording import number, with_interval
from store.report.elements import figure, table
from store.svg import line, points, shape, words

RADAR_CENTRE = (170.0, 106.0)
RADAR_RADIUS = 84.0
RADAR_HEIGHT = 216
FEWEST_AXES = 3
"""A radar of two axes is a line."""


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
