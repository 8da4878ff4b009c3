"""The memory that ``plan`` states is what the worker's queues hold at most, by counting every array in them."""

from __future__ import annotations

import threading
import time
import weakref

import numpy as np
import pytest

import extract.worker.worker as worker_module
from extract.estimate.in_flight import in_flight
from extract.run.run import run
from extract.run.run_spec import build_worker
from extract.worker.device import Device
from extract.worker.range_job import RangeJob
from extract.worker.task import TASKS_AT_ONCE, Task


class Held:
    """Counts the bytes of arrays that are alive, each once."""

    def __init__(self):
        self.alive, self.most = {}, 0

    def add(self, array):
        if id(array) not in self.alive:
            self.alive[id(array)] = array.nbytes
            self.most = max(self.most, sum(self.alive.values()))
            weakref.finalize(array, self.alive.pop, id(array))
        return array


@pytest.fixture
def held(monkeypatch):
    """Count pixels, ids and features of a worker; the first commit waits until its queues are full."""
    counts = {"pixels": Held(), "tokens": Held(), "features": Held()}
    staging, tokenize, full = Device.staging, worker_module._tokenize, threading.Event()
    opened, features, commit = RangeJob.open, RangeJob.features, worker_module.commit_unit

    def counting_tokenize(*arguments):
        found = tokenize(*arguments)
        counts["tokens"].add(found.ids_BL)
        return found

    def counting_open(job, *arguments):
        opened(job, *arguments)
        for array in (*job.image_KD.values(), *job.text_KD.values()):
            counts["features"].add(array)

    def counting_features(job, teacher):
        found = features(job, teacher)
        for array in (found.image, found.text):
            counts["features"].add(array)
        return found

    def commit_when_full(*arguments, **options):
        before = None
        while not full.is_set() and (now := [counted.most for counted in counts.values()]) != before:
            before = now
            time.sleep(0.5)
        full.set()
        return commit(*arguments, **options)

    monkeypatch.setattr(Device, "staging", lambda device, *shape: counts["pixels"].add(staging(device, *shape)))
    monkeypatch.setattr(worker_module, "_tokenize", counting_tokenize)
    monkeypatch.setattr(worker_module, "commit_unit", commit_when_full)
    monkeypatch.setattr(RangeJob, "open", counting_open)
    monkeypatch.setattr(RangeJob, "features", counting_features)
    return counts


def test_no_more_is_held_than_predicted_and_not_much_less(
    tmp_path, teachers, write_tar, encoded, write_pipeline, prepare, held
):
    rng = np.random.default_rng(1)
    images = [encoded(pixels) for pixels in rng.integers(0, 255, (192, 8, 8, 3), np.uint8)]
    folder = write_tar(tmp_path / "corpus", [(f"k{i:03d}", image, f"caption {i}") for i, image in enumerate(images)])
    options = {"range_rows": 32, "chunk_rows": 16, "batch_size": 8}
    pipeline = prepare(write_pipeline(tmp_path, files=[folder / "*.tar"], teachers=teachers, **options))
    specs = []

    def execute(spec, work, _tracker):
        specs.extend(spec.specs.values())
        with build_worker(spec) as worker:
            waiting = []
            for number in range(len(work)):  # as the driver gives them
                waiting.append(worker.submit(Task(range_id=number, teachers=tuple(worker.teachers))))
                if len(waiting) == TASKS_AT_ONCE:
                    waiting.pop(0).result(60)
            for future in waiting:
                future.result(60)

    run(pipeline, execute=execute)
    predicted = in_flight(specs, batch_size=8, range_rows=32)
    for name, counted in held.items():
        assert 0.6 * getattr(predicted, name) <= counted.most <= getattr(predicted, name), name
    assert predicted.total == predicted.pixels + predicted.tokens + predicted.features
