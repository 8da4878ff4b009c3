"""Runs the real worker once with teachers that only wait, and prints what it took as JSON.

`tests.benchmarks.extract.pipeline` starts it, with today's code or with that of an earlier commit on the path; so it
imports nothing of the tests. Its teachers are loaded as any open_clip model is. Their forward pass then is a wait
without the interpreter's lock, one batch at a time, as a device behaves towards the host; processes may share it.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import shutil
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch

from extract.config import ExtractPipeline
from extract.estimate.estimate import estimate
from extract.run.dispatch import execute_here
from extract.run.run import run
from extract.run.tracker import Tracker
from extract.teachers.loading import FAMILIES
from extract.teachers.open_clip_model import OpenClipTeacher
from store.config.pipeline_file import read_pipeline
from store.index.create import index_corpus

EDGE_RANGES = 2
"""Ranges at the beginning and at the end that are not counted, while the queues fill and run empty."""


class Device:
    """Waits, one batch at a time.

    Attributes:
        row_s: seconds per image and caption and teacher.
        busy_s: seconds for which it was asked to wait.
        file: whoever has locked it works on the device.
    """

    row_s, busy_s, lock, file = 0.0, 0.0, threading.Lock(), None

    @classmethod
    def wait(cls, rows: int) -> None:
        """Work on some rows."""
        if cls.row_s:
            with cls.lock:  # of this process's threads
                fcntl.flock(cls.file, fcntl.LOCK_EX)
                time.sleep(cls.row_s * rows)
                fcntl.flock(cls.file, fcntl.LOCK_UN)
        cls.busy_s += cls.row_s * rows


class Simulated(OpenClipTeacher):
    """A teacher whose forward pass is a wait."""

    def features(self, rows: int) -> torch.Tensor:
        """Wait for some rows and return features that are always the same."""
        Device.wait(rows)
        return torch.full((rows, self.embed_dim), self.embed_dim**-0.5)

    def image_features(self, pixels_BHWC, *_):
        """See `FrozenTeacher`."""
        return self.features(len(pixels_BHWC))

    def text_features(self, ids_BL, *_):
        """See `FrozenTeacher`."""
        return self.features(len(ids_BL))

    def encode_image(self, pixels_BHWC):
        """See the `FrozenTeacher` of before."""
        return self.features(len(pixels_BHWC)).numpy()

    def encode_tokens(self, tokens):
        """See the `FrozenTeacher` of before."""
        return self.features(len(tokens.ids_BL)).numpy()


class Watch(Tracker):
    """A tracker that reads the clocks whenever units are committed, and when the worker is ready."""

    @classmethod
    def over(cls, tracker: Tracker) -> Watch:
        """Return one in another's place."""
        watch = cls.__new__(cls)
        vars(watch).update(vars(tracker))
        watch.seen, watch.committed = [], 0
        return watch

    def look(self) -> None:
        """Note units, wall seconds, CPU seconds of the process and of the machine, and seconds of the device."""
        times = psutil.cpu_times()
        machine_s = sum(times) - times.idle - times.iowait
        self.seen.append((self.committed, time.perf_counter(), time.process_time(), machine_s, Device.busy_s))

    def workers(self, *, ready: int, starting: int, busy: int) -> None:
        """Note the moment at which the teachers are loaded."""
        super().workers(ready=ready, starting=starting, busy=busy)
        if not self.seen:
            self.look()

    def note(self, receipts) -> None:
        """Note the moment of a commit."""
        super().note(receipts)
        self.committed += len(receipts)
        self.look()


def extract(pipeline: ExtractPipeline, store: Path) -> dict[str, Any]:
    """Extract a store that is indexed; return the looks at the clocks and how they are to be read."""
    watches = []

    def watched(spec, work, tracker) -> None:
        watches.append(Watch.over(tracker))
        execute_here(spec, work, watches[0])
        watches[0].look()

    here = pipeline.model_copy(update={"store": pipeline.store.model_copy(update={"path": str(store)})})
    outcome = run(here, execute=watched)
    seen, teachers = watches[0].seen, len(pipeline.teachers)
    assert outcome.done == outcome.units == watches[0].committed, outcome
    return {
        "looks": seen,
        "edge_units": EDGE_RANGES * teachers,
        "rows_of_unit": pipeline.store.range_rows / teachers,
        "longest_between_commits_s": max(after[1] - before[1] for before, after in pairwise(seen)),
    }


def forecast(pipeline: ExtractPipeline, store: Path, *, probe_s: float) -> dict[str, Any]:
    """Return what ``extract plan`` says of an indexed store."""
    here = pipeline.model_copy(update={"store": pipeline.store.model_copy(update={"path": str(store)})})
    found = estimate(here, probe_s=probe_s)
    rates = {name: getattr(found.rates, name) for name in ("stretch", "host_cpu_s", "pool_s", "write_s", "rows")}
    return {"forecast_s": 3600 * found.hours, "bound_by": found.bound_by, **rates}


def main() -> None:
    """Index what is not indexed yet, warm up with a few pairs, measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipelines", type=Path)
    parser.add_argument("mix")
    parser.add_argument("work", type=Path, help="folder for stores")
    parser.add_argument("--corpus", default="pairs")
    parser.add_argument("--row-s", type=float, default=0.0, help="device seconds per image and caption and teacher")
    parser.add_argument("--probe", type=float, default=0.0, help="seconds of a forecast before the run")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    Device.file = options.pipelines.open()
    FAMILIES["open_clip"] = Simulated
    pipeline = read_pipeline(options.pipelines, options.mix, ExtractPipeline)
    shape = {"range_rows": pipeline.store.range_rows, "chunk_rows": pipeline.store.chunk_rows}
    made = {}
    for corpus in ("warm_up", options.corpus):
        indexed, store = options.work / f"{corpus}-indexed", options.work / corpus
        index_corpus(indexed, pipeline.corpora[corpus], **shape)
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(indexed, store)
        wanted = options.probe and corpus == options.corpus
        plan = forecast(pipeline, store, probe_s=options.probe) if wanted else None
        made = extract(pipeline, store) | {"plan": plan}
        Device.row_s, Device.busy_s = options.row_s, 0.0
        shutil.rmtree(store)
    print(json.dumps(made))


if __name__ == "__main__":
    main()
