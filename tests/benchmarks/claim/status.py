"""One line about a run of the claim: what is done, what is left, and how long that may take."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

from evaluate.results.files import result_path
from train.runtime.metrics_log import read_metrics
from train.runtime.run_folder import RECORD

from .arms import ABLATIONS, OF_STORE, PRIMARY
from .corpora import DATASETS


def status(out: Path) -> str:
    """Return how many students are trained and tested, the CPU seconds spent, and an estimate of the minutes left."""
    said, seconds = [], []
    left = 0
    for title, arms in (("primary", PRIMARY), ("ablations", ABLATIONS), ("store", OF_STORE)):
        names = [name for arm in arms for name in arm.students]
        trained = [name for name in names if (out / "students" / name / RECORD).is_file()]
        tested = [name for name in names if _is_tested(out, name, "zero_shot")]
        seconds += [_seconds(out / "students" / name) for name in trained if "long" not in name]
        left += len(names) - len(trained)
        said.append(f"{title} {len(trained)} of {len(names)} trained, {len(tested)} tested")
    probed = sum(_is_tested(out, name, "linear_probe") for arm in PRIMARY for name in arm.students)
    said.append(f"probes {probed} of {sum(len(arm.students) for arm in PRIMARY)}")
    spent = [json.loads(line) for line in _lines(out / "compute.jsonl")]
    said.append(f"{sum(one['cpu_s'] for one in spent) / 60:.1f} CPU minutes spent")
    if left and seconds:
        said.append(f"students left take about {left * mean(seconds) / 2 / 60:.0f} min, two at a time")
    return "; ".join(said)


def _is_tested(out: Path, name: str, task: str) -> bool:
    results = out / "results" / "test"
    return all(result_path(results, model=name, task=task, dataset=one).is_file() for one in DATASETS)


def _seconds(run: Path) -> float:
    return float(next(line["seconds"] for line in reversed(read_metrics(run)) if "seconds" in line))


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []
