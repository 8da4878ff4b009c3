"""The page about a store, from its contents. It has no address in it that a browser would open by itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from markupsafe import Markup

from store.errors import shortened
from store.inspect.agreement import Agreement
from store.inspect.coverage import Counts
from store.inspect.provenance import TeacherProvenance, architecture_in_short

from .contents import Contents
from .drawing import map_figure, similarity_figure, timings_figure
from .elements import HERE, base_style, environment, policy
from .numbers import BIN

MOST_MODALITIES, MOST_LINES = 24, 40
"""Columns of a matrix and lines of a table; the data (``--json``) have all."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Cell:
    """A number of a matrix, from 0 to 1, with its shade, from 0 to 4."""

    text: str
    about: str
    shade: int
    wrong: str = ""


def render(contents: Contents) -> str:
    """Return the page as a text; every text of a store is escaped."""
    style = base_style() + (HERE / "report.css").read_text()
    modalities, coverage = _coverage(contents)
    return (
        environment()
        .get_template("report.html")
        .render(
            contents=contents,
            summary=contents.summary,
            style=Markup(style),  # noqa: S704 - our own file
            policy=policy(style),
            modalities=modalities,
            coverage=coverage,
            similarities=_similarities(contents),
            agreements=[
                (one, [[_agreement_cell(one, *at) for at in line] for line in _places(one)])
                for one in contents.agreements
            ],
            map=map_figure(contents.map, contents.pictures.by_row) if contents.map else None,
            statistics=_statistics(contents),
            reasons=contents.reasons[:MOST_LINES],
            teachers=[(name, *_origin(entry)) for name, entry in contents.provenance.teachers.items()],
            runs=contents.provenance.runs[-MOST_LINES:],
            timings=timings_figure(contents.timings) if contents.timings else None,
            most=MOST_LINES,
        )
    )


def _coverage(contents: Contents) -> tuple[list[str], dict[str, list[Cell]]]:
    """Return the most frequent modalities, and per teacher a cell for all rows, for each of them and for the others."""
    rows: Counter[str] = Counter()
    for counts in [*contents.coverage.values()][:1]:
        rows.update({name: of.ok + of.bad + of.not_applicable + of.missing for name, of in counts.items()})
    named = [name for name, _ in rows.most_common(MOST_MODALITIES)]
    rest = [name for name in rows if name not in named]
    columns = [[*rows], *([name] for name in named), *([rest] if rest else [])]
    cells = {
        teacher: [_counts_cell([counts[name] for name in names]) for names in columns]
        for teacher, counts in contents.coverage.items()
    }
    return [*(shortened(name) for name in named), *([f"{len(rest):,} others"] if rest else [])], cells


def _counts_cell(counts: list[Counts]) -> Cell:
    ok, bad, skipped, missing = (
        sum(getattr(one, name) for one in counts) for name in ("ok", "bad", "not_applicable", "missing")
    )
    total = ok + bad + skipped + missing
    wrong = [f"{count:,} {name}" for count, name in ((missing, "missing"), (bad, "bad")) if count]
    return Cell(
        text=f"{ok / total:.0%}" if ok in (0, total) and total else f"{ok / total:.1%}" if total else "–",
        about=f"{ok:,} ok of {total:,}, {skipped:,} not applicable",
        shade=_shade(ok / total) if total else 0,
        wrong=", ".join(wrong),
    )


def _shade(share: float) -> int:
    return min(4, int(5 * max(0.0, share)))


def _places(found: Agreement) -> list[list[tuple[int, int]]]:
    count = range(len(found.teachers))
    return [[(one, other) for other in count] for one in count]


def _agreement_cell(found: Agreement, one: int, other: int) -> Cell:
    value = found.cka[one][other]
    about = f"{found.teachers[one]} and {found.teachers[other]}, {found.rows[one][other]:,} rows"
    if value is None:
        return Cell(text="–", about=about, shade=0)
    return Cell(text=f"{value:.2f}", about=about, shade=_shade(value))


def _similarities(contents: Contents) -> list[Markup]:
    found = {name: one for name, one in contents.similarities.items() if one is not None}
    low = min((one.first for one in found.values()), default=0.0)
    high = max((one.first + BIN * len(one.counts) for one in found.values()), default=1.0)
    return [
        similarity_figure(f"similarity-{number}", name, one, low=low, high=high)
        for number, (name, one) in enumerate(found.items())
    ]


def _statistics(contents: Contents) -> list[list[str]]:
    lines = []
    for teacher, sides in contents.statistics.items():
        for side, one in sides.items():
            shared = "not known" if one.shared_by_inputs is None else f"{one.shared_by_inputs:,}"
            cosine = "–" if one.mean_cosine is None else f"{one.mean_cosine:.3f}"
            numbers = (f"{one.norm_min:.4f} to {one.norm_max:.4f}", f"{one.duplicates:,}", shared)
            lines.append([teacher, side, *numbers, f"{one.constant_dimensions:,}", f"{one.effective_rank:.1f}", cosine])
    return lines


def _origin(entry: TeacherProvenance) -> tuple[str, str | None, list[str]]:
    """Return the digests of spec and weights, then what a teacher is and where from, as short texts."""
    spec = entry.spec
    made = [f"{package} {version}" for package, versions in entry.versions.items() for version in versions]
    texts = [
        shortened(str(spec.notes.get("licence") or "not given")),
        shortened(str(spec.notes.get("source") or "not given")),
        " and ".join(spec.sides),
        f"{spec.embed_dim}",
        f"{spec.compute_dtype}, stored {spec.stored_dtype}",
        shortened(architecture_in_short(spec.architecture)),
        shortened(", ".join(entry.devices) or "–"),
        shortened(", ".join(made) or "–"),
    ]
    return spec.hash, spec.weights_sha256, texts
