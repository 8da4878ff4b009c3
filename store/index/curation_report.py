"""The report of an index, with the pairs that each rule refused: a record in the store and a table as text."""

from __future__ import annotations

from typing import Any

from store.corpus.section import Corpus
from store.format.records import REPORT_KEY, Record, StoreInfo, read_record
from store.io.location import Location

from .merge import Merged

REPORT_KEY_1 = f"pairs/{REPORT_KEY}"
"""The place of the report in format 1."""

PROBLEMS_KEPT = 1000
"""Problems kept in the record; more are only counted."""


class CurationReport(Record):
    """``curation.json``: what was found in the corpus and what the rules refused.

    Attributes:
        rules: of the corpus, as in its ``keep``.
        pairs: images with a caption each, before any rule.
        dropped: pairs by the rule that was the first to refuse them, in the order of the rules.
        same_image, same_pair: pairs whose image, or image and caption, an earlier pair has; before the rules on them.
        modalities: rows by modality; ``""`` where it is unknown.
        unmapped: images by label, where the modality map has none of their labels.
        before: the report before an append, which counts until store.json has the append's files.
    """

    rules: dict[str, Any] = {}
    files: int = 0
    pairs: int = 0
    dropped: dict[str, int] = {}
    rows: int = 0
    same_image: int = 0
    same_pair: int = 0
    modalities: dict[str, int] = {}
    unmapped: dict[str, int] = {}
    num_problems: int = 0
    problems: list[str] = []
    before: CurationReport | None = None

    def plus(self, other: CurationReport) -> CurationReport:
        """Return the report of both, with this one's rules."""
        sums: dict[str, Any] = {
            name: getattr(self, name) + getattr(other, name)
            for name in ("files", "pairs", "rows", "same_image", "same_pair", "num_problems")
        }
        for name in ("dropped", "modalities", "unmapped"):
            sums[name] = _sum(getattr(self, name), getattr(other, name))
        sums["problems"] = [*self.problems, *other.problems][:PROBLEMS_KEPT]
        return self.model_copy(update={**sums, "before": self.model_copy(update={"before": None})})


def report_of(merged: Merged, corpus: Corpus, *, files: int, modalities: dict[str | None, int]) -> CurationReport:
    """Return the report of an index."""
    found = merged.report
    return CurationReport(
        rules=corpus.keep.model_dump(mode="json", exclude_defaults=True),
        files=files,
        pairs=found.pairs,
        dropped={name: found.dropped.get(name, 0) for name in corpus.keep.names()},
        rows=int(merged.keep_N.sum()),
        same_image=merged.same_image,
        same_pair=merged.same_pair,
        modalities=_by_count({name or "": count for name, count in modalities.items()}),
        unmapped=_by_count(dict(found.unmapped)),
        num_problems=found.num_problems,
        problems=found.problems[:PROBLEMS_KEPT],
    )


def read_report(location: Location, info: StoreInfo) -> CurationReport | None:
    """Return the report of a store as store.json says it is, None where there is none."""
    try:
        report = read_record(location, REPORT_KEY if info.version > 1 else REPORT_KEY_1, CurationReport)
    except FileNotFoundError:
        return None
    # The report is written first: after a kill it may count files that the store does not have.
    return report.before if report.before and report.files > len(info.corpus.get("files", {})) else report


def render(report: CurationReport) -> str:
    """Return the report as lines of text."""
    lines = [("corpus files", report.files), ("pairs found", report.pairs)]
    lines += [(f"- {rule}", -count) for rule, count in report.dropped.items()]
    lines.append(("rows", report.rows))
    text = _columns(lines)
    text += "\n" + _columns(
        [
            ("pairs with an image that occurs before", report.same_image),
            ("pairs that occur before", report.same_pair),
            ("pairs not as they should be", report.num_problems),
        ]
    )
    if set(report.modalities) - {""}:
        text += "\nrows by modality\n"
        text += _columns([(name or "(unknown)", count) for name, count in report.modalities.items()], indent="  ")
    if report.unmapped:
        text += "\nimages without modality, by label\n"
        text += _columns(list(report.unmapped.items())[:20], indent="  ")
    return text


def _columns(lines: list[tuple[str, int]], *, indent: str = "") -> str:
    names = max(len(name) for name, _ in lines)
    counts = max(len(f"{count:,}") for _, count in lines)
    return "".join(f"{indent}{name:<{names}}  {count:>{counts},}\n" for name, count in lines)


def _sum(ours: dict[str, int], theirs: dict[str, int]) -> dict[str, int]:
    return {name: ours.get(name, 0) + theirs.get(name, 0) for name in [*ours, *[n for n in theirs if n not in ours]]}


def _by_count(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))
