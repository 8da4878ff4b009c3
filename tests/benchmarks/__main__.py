"""Measures everything that docs/benchmarks.md shows, and writes that page: ``make benchmarks``.

Each benchmark is a process of its own. What was measured is kept in OUT/NAME.json and not measured again, so that the
same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from .listed import LISTED, Benchmark
from .page import page
from .records import ROOT, Record, cores_taken, read_record, require_quiet, run


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--out", type=Path, help="of the records; default runs/bench, with --quick runs/bench-quick")
    parser.add_argument("--page", type=Path, help="default docs/benchmarks.md, with --quick OUT/benchmarks.md")
    names = [one.name for one in LISTED]
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help="these alone; --list has them")
    parser.add_argument("--again", action="store_true", help="measure also what was measured before")
    parser.add_argument("--busy", action="store_true", help="measure on a busy machine; the page says so")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="of an environment with the other libraries")
    parser.add_argument("--list", action="store_true", help="print names and minutes, and measure nothing")
    parser.add_argument("--page-only", action="store_true", help="write the page, and measure nothing")
    found = parser.parse_args(arguments)
    found.out = found.out or Path("runs/bench-quick" if found.quick else "runs/bench")
    found.page = found.page or (found.out / "benchmarks.md" if found.quick else ROOT / "docs/benchmarks.md")
    return found


def kept(benchmark: Benchmark, out: Path) -> Record | None:
    """Return what was measured before."""
    return read_record(ROOT / benchmark.left if benchmark.left else out / f"{benchmark.name}.json")


def is_to_do(benchmark: Benchmark, options: argparse.Namespace) -> bool:
    """Return whether a benchmark is to be run now."""
    if benchmark.left or (options.only and benchmark.name not in options.only) or lacking(benchmark):
        return False
    known = kept(benchmark, options.out)
    adds_peers = benchmark.peers and options.peers is not None and known is not None and not known.peers
    return known is None or options.again or adds_peers


def lacking(benchmark: Benchmark) -> str:
    """Return what a benchmark needs that is not there, empty if nothing."""
    missing = (f"`{path}` is not there: {how}." for path, how in benchmark.needs.items() if not (ROOT / path).exists())
    return " ".join(missing)


def write_page(options: argparse.Namespace) -> None:
    """Write the page from what lies there."""
    records = {one.name: record for one in LISTED if (record := kept(one, options.out))}
    reasons = {one.name: lacking(one) or "it was not run." for one in LISTED}
    before = options.page.read_text() if options.page.exists() else ""
    options.page.write_text(page(LISTED, records, reasons, before=before))
    print(f"{options.page}: {len(records)} of {len(LISTED)} benchmarks")


def main(arguments: list[str] | None = None) -> int:
    """Run what is to be run, write the page, and return the exit code."""
    options = options_of(arguments)
    if options.list:
        for one in LISTED:
            print(f"{one.name:20} {one.minutes:5.1f} min  {one.title}{f'; {why}' if (why := lacking(one)) else ''}")
        return 0
    failed: list[str] = []
    to_do = [] if options.page_only else [one for one in LISTED if is_to_do(one, options)]
    for number, one in enumerate(to_do):
        os.sync()  # what the one before wrote is no work of this one
        if not options.busy:
            require_quiet(load=0.0 if number else os.getloadavg()[0], cores=cores_taken())
        print(f"{one.name}: about {one.minutes:g} min, {number + 1} of {len(to_do)}", file=sys.stderr, flush=True)
        record = run(one, options.out, is_quick=options.quick, is_busy=options.busy, peers=options.peers)
        record.write(options.out / f"{one.name}.json")
        if record.code:
            failed.append(one.name)
            print(f"{one.name} ended with {record.code}; see {options.out / one.name}.log", file=sys.stderr)
        write_page(options)
    if not to_do:
        write_page(options)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
