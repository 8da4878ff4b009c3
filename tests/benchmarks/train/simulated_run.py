"""Trains one student with a simulated device and prints what it took as JSON.

`tests.benchmarks.train.waiting` starts it, with today's code or with that of an earlier commit on the path; so it
imports nothing of the tests. The whole way to batches is real: rows, images, tokens and targets. Instead of
computing, a step waits a stated time without the interpreter's lock.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import psutil

from store.config.pipeline_file import read_pipeline
from train.config import TrainPipeline
from train.recipes.fit_projections import project
from train.trainer import train_model
from train.trainer.stages import distill

EDGE_STEPS = 3
"""Steps at the beginning that are not counted, while batches are loaded ahead."""


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children so far."""
    me = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (me, *me.children(recursive=True)))


def machine_seconds() -> float:
    """Return the CPU seconds that all programs took so far."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait


@dataclass(kw_only=True)
class Device:
    """Takes a stated time for each step, and notes the clocks when it is done.

    Attributes:
        looks: seconds by the clock, CPU seconds of all processes, of this one and of the machine, and the pairs so far.
    """

    step_s: float
    looks: list[tuple[float, ...]] = field(default_factory=list)
    pairs: int = 0

    def fit(self, student: Any, feed: Any, _: Any, settings: Any, **__: Any) -> None:
        """Stand in for `trainer.fit`."""
        for batch in islice(feed.batches(0), settings.steps):
            if hasattr(batch, "captions"):  # the loop of before made tokens on the thread that steps
                student.tokenize(batch.captions)
            time.sleep(self.step_s)
            self.note(batch)

    def note(self, batch: Any) -> None:
        """Look at the clocks after a step."""
        self.pairs += len(batch.rows_B)
        self.looks.append((time.perf_counter(), cpu_seconds(), time.process_time(), machine_seconds(), self.pairs))

    def steady(self) -> dict[str, float]:
        """Return what happened between the first counted step and the last one."""
        first, last = self.looks[EDGE_STEPS - 1], self.looks[-1]
        wall_s, cpu_s, trainer_s, machine_s, pairs = (after - before for before, after in zip(first, last, strict=True))
        steps = len(self.looks) - EDGE_STEPS
        return {
            "pairs": pairs,
            "wall_s": wall_s,
            "cpu_s": cpu_s,
            "trainer_s": trainer_s,
            "machine_s": machine_s,
            "busy_s": steps * self.step_s,
            "longest_step_s": max(after[0] - before[0] for before, after in pairwise(self.looks[EDGE_STEPS - 1 :])),
        }


def main() -> None:
    """Train, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipelines", type=Path)
    parser.add_argument("student")
    parser.add_argument("out", type=Path, help="folder for what this code writes")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--step-s", type=float, default=0.0, help="device seconds of a step")
    options = parser.parse_args()
    out = options.out
    overrides = [
        f"train.project.out={out / 'projection'}",
        f"train.students.{options.student}.out={out / options.student}",
        f"train.students.{options.student}.optimization.steps={options.steps}",
    ]
    pipeline = read_pipeline(options.pipelines, "bench", TrainPipeline, overrides=overrides)
    project(pipeline, pipeline.train.project)
    device = Device(step_s=options.step_s)
    train_model.fit = device.fit
    student = pipeline.train.students[options.student]
    distill(pipeline, options.student, student, train_model.Circumstances(overwrite=True, resume=False))
    print(json.dumps(device.steady()))


if __name__ == "__main__":
    main()
