"""The report of an index, with the pairs that each rule refused: a record in the store and a table as text."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pydantic import ConfigDict

from store.corpus.account import Account
from store.corpus.section import Corpus
from store.format.records import REPORT_KEY, Record, StoreInfo, read_record
from store.io.location import Location

from .merge import Merged

REPORT_KEY_1 = f"pairs/{REPORT_KEY}"
"""The place of the report in format 1."""


class CurationReport(Account, Record):
    """``curation.json``: the account of a corpus, and what became of its pairs.

    Attributes:
        rules: of the corpus, as in its ``keep``.
        rows: pairs that the store holds.
        same_image, same_pair: pairs whose image, or image and caption, an earlier pair has; before the rules on them.
        modalities: rows by modality; ``""`` where it is unknown.
        before: the report before an append, which counts until store.json has the append's files.
    """

    # A report of an earlier version has lines of problems.
    model_config = ConfigDict(extra="ignore", frozen=False)

    rules: dict[str, Any] = {}
    rows: int = 0
    same_image: int = 0
    same_pair: int = 0
    modalities: Counter[str] = Counter()
    before: CurationReport | None = None

    def plus(self, other: CurationReport) -> CurationReport:
        """Return the report of both, with this one's rules."""
        both = self.model_copy(deep=True, update={"before": self.model_copy(update={"before": None})})
        both.add(other)
        for name in ("rows", "same_image", "same_pair", "modalities"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both


def report_of(merged: Merged, corpus: Corpus, *, modalities: dict[str | None, int]) -> CurationReport:
    """Return the report of an index."""
    found = merged.account.model_dump()
    found["dropped"] = {name: merged.account.dropped[name] for name in corpus.keep.names()}
    return CurationReport(
        **found,
        rules=corpus.keep.model_dump(mode="json", exclude_defaults=True),
        rows=int(merged.keep_N.sum()),
        same_image=merged.same_image,
        same_pair=merged.same_pair,
        modalities=Counter({name or "": count for name, count in modalities.items()}),
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
    counted = report.members > 0  # an earlier version did not count members, keys and usable rows
    lines = [("corpus files", report.files)]
    lines += [("members", report.members), ("keys", report.keys)] if counted else []
    lines += [("pairs found", report.pairs)] + [(f"- {rule}", -count) for rule, count in report.dropped.items()]
    lines += [("rows", report.rows)]
    lines += [("rows with image and caption, before rules", report.usable)] if counted else []
    lines += [
        ("pairs with an image that occurs before", report.same_image),
        ("pairs that occur before", report.same_pair),
    ]
    text = _columns(lines)
    for title, examples in (("passed over", report.passed), ("changed", report.changed)):
        if examples:
            text += f"\n{title}\n" + _columns(
                [(reason, found.count) for reason, found in examples.items()], indent="  "
            )
            text += "".join(f"  the first, {reason}: {found.first}\n" for reason, found in examples.items())
    if set(report.modalities) - {""}:
        text += "\nrows by modality\n"
        text += _columns([(name or "(unknown)", count) for name, count in report.modalities.most_common()], indent="  ")
    if report.unmapped:
        text += "\nimages without modality, by label\n"
        text += _columns(report.unmapped.most_common(20), indent="  ")
    return text


def _columns(lines: list[tuple[str, int]], *, indent: str = "") -> str:
    names = max(len(name) for name, _ in lines)
    counts = max(len(f"{count:,}") for _, count in lines)
    return "".join(f"{indent}{name:<{names}}  {count:>{counts},}\n" for name, count in lines)
