"""The whole main job on a CPU in minutes, by the commands that a user would type."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from evaluate.config import EvaluatePipeline
from evaluate.report.table import by_group
from evaluate.results.files import results_on
from evaluate.results.record import ORACLE
from store.errors import MMKDError
from store.files import write_atomic
from store.inspect.summary import summarize
from store.read.reader import FeatureStore

Command = list[str]


def run_demo(pipeline: EvaluatePipeline, name: str, *, config: Path, dataset: str) -> dict[str, Any]:
    """Run corpus, teachers, extraction, distillation and evaluation, and write ``report.json``.

    Args:
        config: the file that holds the pipeline.
        dataset: the zero-shot dataset that is reported.

    Returns:
        The report's content.
    """
    chosen = ["--pipeline", name, "--config", str(config)]
    corpora = [corpus for corpus, section in pipeline.corpora.items() if section.phantom]
    students = list(pipeline.train.students)
    seconds = {
        "corpus": _stage("corpus", _spread(["extract", "phantom", *chosen], "--corpus", corpora)),
        "teachers": _stage("teachers", _spread(["train", "pretrain", *chosen], "--run", list(pipeline.train.pretrain))),
        "extract": _stage("extract", [["extract", "index", *chosen]], [["extract", "run", *chosen]]),
        "distill": _stage(
            "distill",
            [["train", "project", *chosen]],
            _spread(["train", "distill", *chosen], "--student", students),
        ),
        "evaluate": _stage("evaluate", [["evaluate", "run", *chosen, "--dataset", dataset]]),
    }
    results = results_on(Path(pipeline.evaluate.out) / "results", task="zero_shot", dataset=dataset)
    models = {*pipeline.teachers, *students, ORACLE}
    summary = summarize(FeatureStore(pipeline.store.path))
    report = {
        "rows": summary.rows,
        "feature_pairs": summary.feature_pairs,
        "store": pipeline.store.path,
        "models": by_group(one for one in results if one.model.name in models),
        "seconds": seconds,
    }
    write_atomic(Path(pipeline.evaluate.out) / "report.json", (json.dumps(report, indent=1) + "\n").encode())
    return report


def _spread(command: Command, option: str, names: Sequence[str]) -> list[Command]:
    """Share names out over as many processes as there are cores."""
    processes = min(os.cpu_count() or 1, len(names))
    shares = [names[start::processes] for start in range(processes)]
    return [[*command, *(part for name in share for part in (option, name))] for share in shares]


def _stage(name: str, *rounds: list[Command]) -> float:
    """Run rounds of commands, those of a round side by side, and return the seconds they took."""
    began = time.monotonic()
    for commands in rounds:
        for command in commands:
            sys.stderr.write(f"\n[{name}] $ python -m {shlex.join(command)}\n")
        with ThreadPoolExecutor(len(commands)) as pool:
            codes = list(pool.map(_run, commands))
        for command, code in zip(commands, codes, strict=True):
            if code:
                raise MMKDError(
                    f"python -m {shlex.join(command)} ended with exit code {code}",
                    hint="its own message is above; `make demo` goes on from there once it is mended",
                )
    return round(time.monotonic() - began, 1)


def _run(command: Command) -> int:
    return subprocess.run([sys.executable, "-m", *command], check=False).returncode
