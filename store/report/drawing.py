"""The figures of the page about a store: histograms, a map, bars of time; each with its numbers as a table."""

from __future__ import annotations

from collections import Counter
from typing import Any

from markupsafe import Markup

from store.errors import shortened
from store.inspect.stage_report import BESIDE, TIMELINE, StageReport
from store.svg import line, shape, words

from .contents import Map
from .elements import WIDTH, figure, table
from .numbers import BIN, Histogram

COLOURS = 8
"""Modalities that have a colour of their own; the others share one."""

MAP_WIDTH, MAP_HEIGHT, PICTURE_PX = 720.0, 540.0, 44.0


def similarity_figure(name: str, teacher: str, found: Histogram, *, low: float, high: float) -> Markup:
    """Return a teacher's histogram between two cosines, which all teachers share so that they can be compared."""
    left, right, top, bottom = 12.0, WIDTH - 12.0, 8.0, 96.0
    scale = (right - left) / max(high - low, BIN)
    most = max(found.counts)
    drawing = [line(left, bottom, right, bottom, class_="axis")]
    for number, count in enumerate(found.counts):
        if count:
            x = left + (found.first + BIN * number - low) * scale
            height = max(0.5, (bottom - top) * count / most)
            drawing.append(
                shape("rect", x=x, y=bottom - height, width=max(1.0, BIN * scale - 1), height=height, class_="block")
            )
    mean_x = left + (found.mean - low) * scale
    drawing.append(line(mean_x, top, mean_x, bottom, class_="zero"))
    for value, anchor in ((low, "start"), ((low + high) / 2, "middle"), (high, "end")):
        drawing.append(words(left + (value - low) * scale, bottom + 15, f"{value:.2f}", class_="tick", anchor=anchor))
    rows = [["rows", f"{found.rows:,}"], ["mean", f"{found.mean:.4f}"]]
    rows += [[f"{percent} %", f"{value:.4f}"] for percent, value in found.quantiles.items()]
    return figure(
        name,
        title=teacher,
        caption=f"mean {round(found.mean, 3) + 0.0:.3f} (dashed), {found.rows:,} rows",
        description=f"Histogram of the cosines of image and caption, from {low:.2f} to {high:.2f}",
        height=bottom + 20,
        drawing=drawing,
        table=table(f"Similarity under {teacher}", ["", "value"], rows),
    )


def colours_of(found: Map) -> dict[str | None, int]:
    """Return a number below `COLOURS` for each of the most frequent modalities; the others have no colour."""
    counts = Counter(one for one in found.modalities if one is not None)
    return {modality: number for number, (modality, _) in enumerate(counts.most_common(COLOURS))}


def map_figure(found: Map, pictures: dict[int, str]) -> Markup:
    """Return the map, with small images in it where there are any."""
    colours = colours_of(found)
    margin = PICTURE_PX / 2 + 4

    def place(x: float, y: float) -> tuple[float, float]:
        return margin + x * (MAP_WIDTH - 2 * margin), margin + y * (MAP_HEIGHT - 2 * margin)

    drawing, above = [], []
    for row, at, modality in zip(found.rows, found.places, found.modalities, strict=True):
        x, y = place(*at)
        colour = f"c{colours[modality]}" if modality in colours else "other"
        if row in found.pictured and row in pictures:
            corner: dict[str, Any] = {"x": x - PICTURE_PX / 2, "y": y - PICTURE_PX / 2}
            corner |= {"width": PICTURE_PX, "height": PICTURE_PX}
            above.append(shape("image", href=f"data:image/jpeg;base64,{pictures[row]}", **corner))
            above.append(shape("rect", class_=f"frame {colour}", **corner))
        else:
            drawing.append(shape("circle", cx=x, cy=y, r=3.0, class_=f"dot {colour}"))
    counts = Counter("(unknown)" if one is None else shortened(one) for one in found.modalities)
    names: dict[str, str] = {
        "(unknown)" if one is None else shortened(one): f"c{number}" for one, number in colours.items()
    }
    key = Markup('<span class="key {}"></span> {}').format
    rows = [[key(names.get(one, "other"), one), f"{count:,}"] for one, count in counts.most_common(COLOURS + 12)]
    return figure(
        "rows",
        title=f"Images as {found.teacher} sees them",
        caption=f"t-SNE of {len(found.rows):,} rows, coloured by modality. Neighbours are alike; distances and places "
        "mean nothing else.",
        description="Points on a plane, one for each row; the table has the colours",
        height=MAP_HEIGHT,
        drawing=[*drawing, *above],
        table=table("Modalities", ["modality", "rows of the map"], rows),
        beside=True,
        width=MAP_WIDTH,
    )


def timings_figure(found: StageReport) -> Markup:
    """Return bars of the share of the workers' time of each stage."""
    total_s = found.total_s or 1.0
    lines = [(name, found.timeline_s[stage]) for stage, name in TIMELINE.items() if stage in found.timeline_s]
    beside = [
        (f"{name} (meanwhile)", found.beside_s[stage]) for stage, name in BESIDE.items() if stage in found.beside_s
    ]
    drawing, y, rows = [], 16.0, []
    for name, seconds in (*lines, *beside):
        share = seconds / total_s
        drawing.append(words(4, y, name))
        drawing.append(words(WIDTH - 4, y, f"{share:.0%}", class_="value", anchor="end"))
        drawing.append(line(4, y + 8, WIDTH - 4, y + 8, class_="grid"))
        drawing.append(shape("rect", x=4.0, y=y + 5, width=(WIDTH - 8) * min(1.0, share), height=6.0, class_="block"))
        rows.append([name, f"{seconds:,.1f}", f"{share:.1%}", f"{1000 * seconds / max(1, found.rows):,.2f}"])
        y += 30
    return figure(
        "timings",
        title="Time of the workers",
        caption="Shares of the time of all workers. What is done meanwhile takes place at the same time, on other "
        "threads.",
        description="A bar for each stage",
        height=y,
        drawing=drawing,
        table=table("Seconds by stage", ["stage", "seconds", "share", "ms per row"], rows),
        beside=True,
    )
