"""Draws the metrics of runs side by side as one SVG: a panel for each number, a line for each run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from markupsafe import Markup

from store.errors import ConfigError
from store.svg import line, points, shape, words

from .metrics_log import METRICS, read_metrics
from .run_folder import partial_of

Curve: TypeAlias = list[tuple[int, float]]
"""Steps, ascending, and a number at each."""

COLUMNS, WIDTH, HEIGHT = 3, 330.0, 220.0
"""Panels in a row, and their size; a unit is a pixel on an ordinary screen."""

LEFT, RIGHT, TOP, BOTTOM = 56.0, 14.0, 30.0, 30.0
"""Margins of a panel."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b6b6b")
"""Colours of Okabe and Ito, which colour-blind readers tell apart; further runs are dashed."""

MOST_POINTS = 600
"""Points of a line; more are not to be seen in a panel."""

MARKED = 40
"""Lines of at most so many points show each: a run that is validated once has one."""

STYLE = """
text { font: 11px system-ui, sans-serif; fill: #1b1f24 } .title { font-weight: 600; font-size: 13px }
.grid { stroke: #d0d7de } .tick { fill: #525b66 } polyline { fill: none; stroke-width: 1.5 }
"""


def runs_by_label(folders: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of metrics of each run by its folder's name, or by its path if names repeat.

    Args:
        folders: of finished runs, or where those of unfinished ones will appear.

    Raises:
        ConfigError: a folder has no metrics.
    """
    names = [folder.absolute().name for folder in folders]
    found = {}
    for folder, name in zip(folders, names, strict=True):
        lines = read_metrics(folder) or read_metrics(partial_of(folder.absolute()))
        if not lines:
            raise ConfigError(
                f"{folder}: there are no metrics: neither it nor {partial_of(folder).name} beside it has a line in "
                f"{METRICS}",
                hint="name the folder of a run, the `out` of train.pretrain.NAME or train.students.NAME",
            )
        found[name if names.count(name) == 1 else str(folder)] = lines
    return found


def drawn(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Markup:
    """Return one self-contained SVG with a panel for each number that a run has written.

    Args:
        runs: by label, the lines of metrics.
    """
    panels = _panels(runs)
    last = max((step for curves in panels.values() for curve in curves.values() for step, _ in curve), default=0)
    head = 12 + 18.0 * len(runs)
    width, height = COLUMNS * WIDTH, head + HEIGHT * math.ceil(len(panels) / COLUMNS)
    looks = {label: _look(number) for number, label in enumerate(runs)}
    parts = [shape("title", "Curves of training runs"), shape("style", STYLE)]
    parts.append(shape("rect", width=width, height=height, fill="#ffffff"))
    for number, (label, look) in enumerate(looks.items()):
        y = 20 + 18.0 * number
        parts += [shape("polyline", points=points([(14, y - 4), (42, y - 4)]), **look), words(50, y, label)]
    for number, (name, curves) in enumerate(panels.items()):
        left, top = WIDTH * (number % COLUMNS), head + HEIGHT * (number // COLUMNS)
        parts.append(_panel(name, curves, looks, last=last, left=left, top=top))
    opened = f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width:g} {height:g}" width="{width:g}">'
    return Markup("{}{}</svg>\n").format(Markup(opened), Markup("\n").join(parts))  # noqa: S704 - numbers alone


def page(drawing: Markup) -> str:
    """Return a drawing as a page of HTML that needs no other file."""
    head = '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Curves of training runs</title></head>'
    return f"{head}\n<body>\n{drawing}</body></html>\n"


def _panels(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, Curve]]:
    """Return the curves of each number by run; seconds are left out, as they begin again when a run is resumed."""
    found: dict[str, dict[str, Curve]] = {"loss": {}}
    for label, lines in runs.items():
        for one in lines:
            for name, value in one.items():
                if name not in ("step", "seconds") and isinstance(value, int | float) and math.isfinite(value):
                    found.setdefault(name, {}).setdefault(label, []).append((one["step"], value))
    return {name: curves for name, curves in found.items() if curves}


def _look(number: int) -> dict[str, str]:
    dashed = {} if number < len(COLOURS) else {"stroke_dasharray": f"{2 + 2 * (number // len(COLOURS))} 3"}
    return {"stroke": COLOURS[number % len(COLOURS)], **dashed}


def _panel(
    name: str,
    curves: Mapping[str, Curve],
    looks: Mapping[str, Mapping[str, str]],
    *,
    last: int,
    left: float,
    top: float,
) -> Markup:
    values = [value for curve in curves.values() for _, value in curve]
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10
    x0, x1 = left + LEFT, left + WIDTH - RIGHT
    y0, y1 = top + HEIGHT - BOTTOM, top + TOP

    def place(step: int, value: float) -> tuple[float, float]:
        return x0 + (x1 - x0) * step / max(last, 1), y0 + (y1 - y0) * (value - low) / (high - low)

    told = ", ".join(f"{label} {curve[-1][1]:.4g} at step {curve[-1][0]}" for label, curve in curves.items())
    parts = [shape("desc", f"{name}: {told}"), words(x0, top + 18, name, class_="title")]
    for value in (low, (low + high) / 2, high):
        y = place(0, value)[1]
        parts += [line(x0, y, x1, y, class_="grid"), words(x0 - 6, y + 4, f"{value:.4g}", class_="tick", anchor="end")]
    for step in sorted({0, last}):
        parts.append(words(place(step, low)[0], y0 + 16, f"{step:,}", class_="tick", anchor="middle"))
    for label, curve in curves.items():
        places = [place(*point) for point in _thinned(curve)]
        parts.append(shape("polyline", points=points(places), **looks[label]))
        for x, y in places if len(places) <= MARKED else ():
            parts.append(shape("circle", cx=x, cy=y, r=2, fill=looks[label]["stroke"]))
    return Markup("<g>{}</g>").format(Markup("").join(parts))


def _thinned(curve: Curve) -> Curve:
    if len(curve) <= MOST_POINTS:
        return curve
    return [curve[number * (len(curve) - 1) // (MOST_POINTS - 1)] for number in range(MOST_POINTS)]
