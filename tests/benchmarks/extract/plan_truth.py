"""Compares what ``extract plan`` forecasts with what the run takes, for three mixes and a simulated accelerator.

python -m tests.benchmarks.extract.plan_truth --out runs/bench

Each mix is forecast by a probe of ten seconds and then run, in one process, by the program's own functions. The
device's time per pair is a multiple of the host's, as in `tests.benchmarks.extract.pipeline`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.before_and_now import ROOT
from tests.benchmarks.extract.mixes import MIXES, write_all
from tests.benchmarks.extract.pipeline import between, host_cpu_seconds, ran, row_seconds

WITHIN = 0.15
"""How far a forecast may be from the run."""


def main() -> None:
    """Forecast, run, print a table, and end with 1 where a forecast is too far off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--mix", action="append", choices=list(MIXES), help="only this one; may be repeated")
    parser.add_argument("--probe", default="10", help="seconds of the probe")
    options = parser.parse_args()
    names, found, load = options.mix or [name for name in MIXES if MIXES[name].workers == 1], {}, os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        write_all(work, names)
        for name in names:
            row_s = row_seconds(name, host_cpu_seconds(ROOT, work, name))
            made = ran(ROOT, work, name, "--row-s", str(row_s), "--probe", options.probe)
            plan, seconds = made[0]["plan"], between(made, edges=True)["wall_s"]
            found[name] = {**plan, "run_s": seconds, "ratio": plan["forecast_s"] / seconds}
    print(f"{os.cpu_count()} cores, load {load:.1f} and {os.getloadavg()[0]:.1f}\n")
    print("| mix | bound by | forecast s | run s | ratio |\n|---|---|---|---|---|")
    for name, row in found.items():
        print(f"| {name} | {row['bound_by']} | {row['forecast_s']:.1f} | {row['run_s']:.1f} | {row['ratio']:.2f} |")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "plan_truth.json").write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(any(abs(row["ratio"] - 1) > WITHIN for row in found.values()))


if __name__ == "__main__":
    main()
