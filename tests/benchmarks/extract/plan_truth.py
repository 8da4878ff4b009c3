"""Compares what ``extract plan`` forecasts with what the run takes, for three mixes and a simulated accelerator.

python -m tests.benchmarks.extract.plan_truth

Each mix is forecast by a probe of ten seconds and then run, in one process, by the program's own functions. The
device's time per pair is a multiple of the host's, as in `tests.benchmarks.extract.pipeline`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.before_and_now import ROOT
from tests.benchmarks.extract.mixes import MIXES, write_all
from tests.benchmarks.extract.pipeline import between, host_cpu_seconds, ran, row_seconds
from tests.benchmarks.tables import table

WITHIN = 0.15
"""The largest error of a forecast, as a share of the run."""


def main() -> None:
    """Forecast, run, print a table, and end with 1 where a forecast is too far off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mix", action="append", choices=list(MIXES), help="only this one; may be repeated")
    parser.add_argument("--probe", default="10", help="seconds of the probe")
    options = parser.parse_args()
    names, found = options.mix or [name for name in MIXES if MIXES[name].workers == 1], {}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        write_all(work, names)
        for name in names:
            row_s = row_seconds(name, host_cpu_seconds(ROOT, work, name))
            made = ran(ROOT, work, name, "--row-s", str(row_s), "--probe", options.probe)
            plan, seconds = made[0]["plan"], between(made, edges=True)["wall_s"]
            found[name] = {**plan, "run_s": seconds, "ratio": plan["forecast_s"] / seconds}
    rows = ([name, *(row[key] for key in ("bound_by", "forecast_s", "run_s", "ratio"))] for name, row in found.items())
    table(("mix", "bound by", "forecast s", "run s", "ratio"), rows)
    sys.exit(any(abs(row["ratio"] - 1) > WITHIN for row in found.values()))


if __name__ == "__main__":
    main()
