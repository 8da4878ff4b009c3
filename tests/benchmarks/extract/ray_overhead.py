"""Extraction on Ray beside the plain loop: one worker each, the same threads, in alternation.

python -m tests.benchmarks.extract.ray_overhead --teachers runs/demo/teachers

Timed is the work: from the moment a worker is ready to the last receipt. Starting Ray and loading teachers is apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Ray gives its workers the priority of nice 15. Where other things run too, that and not Ray would be measured.
os.environ.setdefault("RAY_worker_niceness", "0")

from extract.cluster.execute import execute_on_ray
from extract.config import ExtractPipeline
from extract.corpora.phantom.corpus import PhantomSettings, write_corpus
from extract.run.dispatch import execute_here
from extract.run.plan import RangeWork
from extract.run.run import Execute, run
from extract.run.run_spec import RunSpec
from extract.run.tracker import Tracker
from store.config.pipeline_file import read_pipeline
from store.format.records import Receipt
from store.index.create import index_corpus
from tests.benchmarks.tables import table

RANGE_ROWS = 128


class Stopwatch(Tracker):
    """A tracker that remembers when the first worker was ready and when the last range was done."""

    ready_s: float | None = None
    last_s = 0.0

    @classmethod
    def over(cls, tracker: Tracker) -> Stopwatch:
        """Return one in another's place."""
        watch = cls.__new__(cls)
        vars(watch).update(vars(tracker))
        return watch

    def workers(self, *, ready: int, starting: int, busy: int, waiting: int = 0) -> None:
        """Note the time at which one is ready."""
        if ready and self.ready_s is None:
            self.ready_s = time.monotonic()
        super().workers(ready=ready, starting=starting, busy=busy, waiting=waiting)

    def note(self, receipts: Sequence[Receipt]) -> None:
        """Note the time."""
        super().note(receipts)
        self.last_s = time.monotonic()


@dataclass(kw_only=True, frozen=True, slots=True)
class Time:
    """Seconds of a run: until a worker was ready, and from then to the last receipt."""

    start_s: float
    work_s: float


def measure(pipeline: ExtractPipeline, execute: Execute, store: Path) -> Time:
    """Index into a new store and extract it."""
    corpus = pipeline.corpora["pairs"]
    index_corpus(store, corpus, range_rows=RANGE_ROWS, chunk_rows=RANGE_ROWS)
    times: list[Time] = []

    def timed(spec: RunSpec, work: Sequence[RangeWork], tracker: Tracker) -> None:
        watch, began = Stopwatch.over(tracker), time.monotonic()
        execute(spec, work, watch)
        assert watch.ready_s is not None
        times.append(Time(start_s=watch.ready_s - began, work_s=watch.last_s - watch.ready_s))

    here = pipeline.model_copy(update={"store": pipeline.store.model_copy(update={"path": str(store)})})
    outcome = run(here, execute=timed)
    assert outcome.done == outcome.units
    return times[0]


def pipeline_of(folder: Path, teachers: Sequence[Path], *, rows: int) -> ExtractPipeline:
    """Draw a corpus and return a pipeline over it."""
    write_corpus(folder / "corpus", PhantomSettings(rows=rows, seed=3))
    content = {
        "corpora": {"pairs": {"files": [f"{folder}/corpus/*.tar"]}},
        "teachers": {path.name: {"folder": str(path.absolute()), "embed_dim": 64} for path in teachers},
        "store": {"path": str(folder / "store"), "corpus": "pairs", "range_rows": RANGE_ROWS, "chunk_rows": RANGE_ROWS},
        "extract": {"batch_size": 64, "workers": 1, "threads_per_worker": 1, "decode_threads": 1},
    }
    file = folder / "pipelines.yaml"
    file.write_text(json.dumps({"bench": content}))  # JSON is YAML
    return read_pipeline(file, "bench", ExtractPipeline)


def main() -> None:
    """Measure both in alternation and print seconds and the ratio of medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teachers", type=Path, default=Path("runs/demo/teachers"))
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    ways: dict[str, Execute] = {"plain": execute_here, "ray": execute_on_ray}
    found: dict[str, list[Time]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pipeline = pipeline_of(folder, sorted(options.teachers.iterdir())[:3], rows=options.rows)
        for number in range(options.rounds):
            # The other one first in every second round: what else the machine does changes with time.
            for name in sorted(ways, reverse=bool(number % 2)):
                found[name].append(measure(pipeline, ways[name], folder / f"store-{name}-{number}"))
                print(number + 1, name, found[name][-1], f"load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    medians = {name: statistics.median(one.work_s for one in times) for name, times in found.items()}
    pairs = zip(found["ray"], found["plain"], strict=True)
    ratios = ", ".join(f"{ray.work_s / plain.work_s:.2f}" for ray, plain in pairs)
    start_s = {name: statistics.median(one.start_s for one in times) for name, times in found.items()}
    rows = [["plain loop (`--local`)", start_s["plain"], medians["plain"], 1.0, None]]
    rows += [["Ray, one actor", start_s["ray"], medians["ray"], medians["ray"] / medians["plain"], ratios]]
    table(("driver", "s until a worker is ready", "s of work", "ratio", "ratio round by round"), rows)


if __name__ == "__main__":
    main()
