"""Measures how much of the time a simulated accelerator and the cores work, with an earlier worker beside if need be.

python -m tests.benchmarks.extract.pipeline [--before COMMIT]

The worker is the real one, with real JPEGs, tokenizers and commits; nine teachers wait instead of computing. For each
mix of pairs the host's CPU time per pair is measured by the same run with a device that takes no time. The device's
time per pair is then a multiple of that time per core, and each worker runs with it. Ideal is min(1 / device time,
cores / host CPU time) with each worker's own CPU time. Counted is the steady part of a run: from the commit of the
second range to that of the third last, so that borders of ranges count, and loading, the first batch and the last
commits do not.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.before_and_now import codes_of, parser_of
from tests.benchmarks.extract.mixes import MIXES, TEACHERS, write_all
from tests.benchmarks.tables import table

SHOWN = {
    "device_ms_per_pair": "device ms/pair",
    "host_cpu_ms_per_pair": "host CPU ms/pair",
    "device_busy": "device busy",
    "host_busy": "host busy",
    "others_busy": "cores others took",
    "pairs_per_s": "pairs/s",
    "ideal_pairs_per_s": "ideal",
    "of_ideal": "of ideal",
}
"""Figures of the table and their headings."""

CHILD = Path(__file__).with_name("simulated_run.py")


def ran(
    code: Path, work: Path, mix: str, *arguments: str, corpora: Sequence[str] = ("pairs0",)
) -> list[dict[str, Any]]:
    """Run one mix with the code of a folder, each corpus in a process of its own, side by side."""
    environment = os.environ | {"PYTHONPATH": str(code)}
    started = []
    for corpus in corpora:
        place = str(work / f"{code.name}-{mix}-{corpus}")
        command = [sys.executable, "-P", str(CHILD), str(work / "pipelines.yaml"), mix, place, "--corpus", corpus]
        started.append(subprocess.Popen([*command, *arguments], cwd=code, env=environment, stdout=subprocess.PIPE))
    written = [child.communicate()[0] for child in started]
    if any(child.returncode for child in started):
        sys.exit(f"{mix}: a run failed; see above")
    return [json.loads(text.splitlines()[-1]) for text in written]


def between(runs: Sequence[Mapping[str, Any]], *, edges: bool) -> dict[str, float]:
    """Return what some processes did together while all were at work.

    Args:
        edges: whether the ranges at the beginning and at the end of each count.
    """
    looks = []
    for run in runs:
        edge, last = (0, math.inf) if edges else (run["edge_units"], run["looks"][-1][0] - run["edge_units"])
        looks.append(np.array([look for look in run["looks"] if edge <= look[0] <= last]))
    begin, end = max(some[0, 1] for some in looks), min(some[-1, 1] for some in looks)
    # Units, wall, own CPU, machine's CPU and device seconds of each process, at both moments.
    found = np.array([[np.diff(np.interp([begin, end], some[:, 1], column))[0] for column in some.T] for some in looks])
    units, _, cpu_s, _, busy_s = found.sum(axis=0)
    rows = units * runs[0]["rows_of_unit"]
    return {"rows": rows, "wall_s": end - begin, "cpu_s": cpu_s, "machine_s": found[0, 3], "busy_s": busy_s}


def figures(runs: Sequence[Mapping[str, Any]], host_cpu_s: float) -> dict[str, float]:
    """Return what runs with a device and one without say, per pair."""
    steady, cores = between(runs, edges=False), os.cpu_count() or 1
    whole = between(runs, edges=True)
    device_s = steady["busy_s"] / steady["rows"]
    ideal = min(1 / device_s, cores / host_cpu_s)
    found = {
        "device_ms_per_pair": 1e3 * device_s,
        "host_cpu_ms_per_pair": 1e3 * host_cpu_s,
        "device_busy": steady["busy_s"] / steady["wall_s"],
        "host_busy": steady["cpu_s"] / steady["wall_s"] / cores,
        "pairs_per_s": steady["rows"] / steady["wall_s"],
        "ideal_pairs_per_s": ideal,
        "of_ideal": steady["rows"] / steady["wall_s"] / ideal,
        "host_cpu_ms_per_pair_beside_device": 1e3 * steady["cpu_s"] / steady["rows"],
        "others_busy": (steady["machine_s"] - steady["cpu_s"]) / steady["wall_s"] / cores,
        "whole_run_pairs_per_s": whole["rows"] / whole["wall_s"],
        "longest_between_commits_s": max(run["longest_between_commits_s"] for run in runs),
    }
    return {name: round(float(value), 4) for name, value in found.items()}


def row_seconds(name: str, host_cpu_s: float) -> float:
    """Return the device's seconds for an image or a caption and teacher, from the host's CPU seconds for a pair."""
    mix = MIXES[name]
    return mix.device * host_cpu_s / (os.cpu_count() or 1) / TEACHERS / (1 + 1 / mix.captions_per_image)


def corpora(mix: str) -> list[str]:
    """Return the corpus of each worker."""
    return [f"pairs{number}" for number in range(MIXES[mix].workers)]


def host_cpu_seconds(code: Path, work: Path, name: str) -> float:
    """Return the CPU seconds of a pair, measured with a device that takes no time."""
    found = between(ran(code, work, name, corpora=corpora(name)), edges=False)
    return found["cpu_s"] / found["rows"]


def measured(name: str, codes: dict[str, Path], work: Path) -> dict[str, dict[str, float]]:
    """Return the figures of one mix by code."""
    host_cpu_s = {key: host_cpu_seconds(code, work, name) for key, code in codes.items()}
    row_s = row_seconds(name, host_cpu_s["now"])
    found = {}
    for key, code in codes.items():
        found[key] = figures(ran(code, work, name, "--row-s", str(row_s), corpora=corpora(name)), host_cpu_s[key])
        print(f"{name}, {key}: {found[key]}; load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure, and print a table."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--mix", action="append", choices=list(MIXES), help="only this one; may be repeated")
    options = parser.parse_args()
    names = options.mix or list(MIXES)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        write_all(work, names)
        codes, rows = codes_of(options, work), []
        # In turns: what else the machine does changes with time.
        for number, name in enumerate(names):
            found = measured(name, dict(sorted(codes.items(), reverse=bool(number % 2))), work)
            rows += [[name, worker, *(values[key] for key in SHOWN)] for worker, values in found.items()]
    table(("mix", "worker", *SHOWN.values()), rows)


if __name__ == "__main__":
    main()
