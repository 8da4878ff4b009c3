"""The page docs/benchmarks.md, written whole from the list of benchmarks and the records of their runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .listed import Benchmark
from .records import Record

HEAD = """\
# Benchmarks

`make benchmarks PEERS=PYTHON` measures everything on this page and writes it (`python -m tests.benchmarks`). What
the programs achieve is in [results.md](results.md). Each section names its command, and the date, commit, machine
and load of its run. *Load* is the average of a minute, before and after; it counts the benchmark that ran before.
*Others* is how many cores other programs took meanwhile; with more than 0.5 figures do not count. A run that was
started on a busy machine is marked. Compare only figures of one table: other tables were measured at other times.
"""

BUSY = "**Measured on a busy machine: these figures do not count.** "


def anchor(title: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def page(
    listed: Sequence[Benchmark], records: Mapping[str, Record], lacking: Mapping[str, str], *, before: str = ""
) -> str:
    """Return the page.

    Args:
        records: by name of the benchmark.
        lacking: why there is none, by name.
        before: the page as it was; a section without a record keeps the run that it shows.
    """
    contents = "\n".join(f"- [{one.title}](#{anchor(one.title)})" for one in listed)
    shown = _runs(before)
    sections = [
        _section(one, records.get(one.name), shown.get(one.title) or f"Left out: {lacking.get(one.name, '')}\n")
        for one in listed
    ]
    return "\n".join([HEAD, contents + "\n", *sections])


def _runs(text: str) -> dict[str, str]:
    """Return what a page shows of each run, from its command on, by title."""
    found = {}
    for section in text.split("\n## ")[1:]:
        title, _, rest = section.partition("\n")
        _, fence, run = rest.partition("```\n")
        if fence:
            found[title] = fence + run
    return found


def _section(benchmark: Benchmark, record: Record | None, otherwise: str) -> str:
    head = f"## {benchmark.title}\n\n{benchmark.about}\n"
    if record is None:
        return f"{head}\n{otherwise}"
    load = f"load {record.load[0]} and {record.load[1]}, others {record.others} cores"
    said = BUSY if record.is_busy else ""
    said += f"{record.date} UTC, commit {record.commit}, {record.seconds:,.0f} s, {load}; {record.machine}."
    if record.code:
        said += f" **It ended with exit code {record.code}**: a bound of its own is missed, or it failed."
    if benchmark.peers and not record.peers:
        said += " Peers were not measured (no `PEERS=`)."
    return f"{head}\n```\n{record.command}\n```\n\n{said}\n\n{record.output}\n"
