"""One range in a worker: rows left out, rows only tried, a second attempt, and where the time goes."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest

from extract.run.dispatch import committed_by_run, execute_here
from extract.run.run import run
from extract.run.run_spec import build_worker
from extract.worker.task import Task
from store import faults
from store.errors import ExtractionError
from store.format.records import Status, receipt_key
from store.format.stages import DEVICE_STAGES, HOST_STAGES
from store.io.folder import Folder
from store.read.reader import FeatureStore
from tests.extract.tasks import done


class Counting:
    """A teacher that counts the images it is given."""

    def __init__(self, teacher):
        self._teacher, self.images = teacher, 0

    def __getattr__(self, name):
        return getattr(self._teacher, name)

    def image_features(self, pixels_BHWC):
        self.images += len(pixels_BHWC)
        return self._teacher.image_features(pixels_BHWC)


@pytest.fixture
def with_worker(tmp_path, corpus, teachers, write_pipeline, prepare):
    """Return a function that calls another with a worker over the sixty pairs; the store is tmp_path / store."""
    pipeline = prepare(write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers=teachers))

    def call(act):
        def execute(job, work, tracker):
            worker = build_worker(job)
            worker.teachers = {name: Counting(teacher) for name, teacher in worker.teachers.items()}
            act(worker)

        return run(pipeline, execute=execute)

    return call


def test_killer_rows_are_left_out_and_the_others_are_as_ever(
    tmp_path, with_worker, corpus, teachers, write_pipeline, extract_here
):
    plain = FeatureStore(
        extract_here(write_pipeline(tmp_path / "plain", files=[corpus / "*.tar"], teachers=teachers))[0]
    )
    why = {17: "a worker died of it", 30: "a worker hung at it"}
    with_worker(lambda worker: done(worker, 1, ["small", "wide"], attempt=3, killers=why))
    store = FeatureStore(tmp_path / "store")
    others = np.setdiff1d(np.arange(16, 32), list(why))
    for name in ("small", "wide"):
        assert (store.status(name)[list(why)] == Status.KILLER_ROW).all()
        assert (store.status(name)[others] == Status.OK).all()
        receipt = store.receipts(name)[1]
        assert {bad.row: bad.reason for bad in receipt.bad_rows} == why
        assert receipt.attempt == 3
        image = store.read(slice(None), teacher=name, side="image")
        assert not image[list(why)].any()
        assert np.array_equal(image[others], plain.read(slice(None), teacher=name, side="image")[others])


def test_a_probe_does_the_rows_and_writes_nothing(tmp_path, with_worker, stored_digests):
    seen = {}

    def act(worker):
        before = sorted(path for path in (tmp_path / "store").rglob("*") if path.is_file())
        done(worker, 1, ["small"], probe=range(20, 25))
        after = sorted(path for path in (tmp_path / "store").rglob("*") if path.is_file())
        seen.update(
            {name: teacher.images for name, teacher in worker.teachers.items()},
            written=[path for path in set(after) - set(before) if "runs" not in path.parts],
        )

    with_worker(act)
    assert seen == {"small": 5, "wide": 0, "written": []}


def test_a_second_attempt_leaves_alone_what_the_first_committed(tmp_path, with_worker):
    seen = {}

    def act(worker):
        first = done(worker, 2, ["small"])
        both = done(worker, 2, ["small", "wide"], attempt=2)
        seen.update({name: teacher.images for name, teacher in worker.teachers.items()})
        assert both[0] == first[0]
        assert [receipt.attempt for receipt in both] == [1, 2]

    with_worker(act)
    assert seen == {"small": 16, "wide": 16}
    assert Folder(tmp_path / "store").exists(receipt_key("wide", 2))


def test_a_range_counts_as_committed_by_a_run_when_all_its_units_are(
    tmp_path, corpus, teachers, write_pipeline, prepare
):
    pipeline = prepare(write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers=teachers))
    both = ("small", "wide")

    def execute(job, work, tracker):
        worker = build_worker(job)
        assert committed_by_run(job, Task(range_id=2, teachers=both)) == []
        done(worker, 2, ["small"])
        assert committed_by_run(job, Task(range_id=2, teachers=both)) == []
        receipts = done(worker, 2, both, attempt=2)
        assert committed_by_run(job, Task(range_id=2, teachers=both)) == receipts
        assert committed_by_run(job, Task(range_id=2, teachers=both, probe=range(32, 40))) == []
        another = dataclasses.replace(job, run_id="another")
        assert committed_by_run(another, Task(range_id=2, teachers=both)) == []

    run(pipeline, execute=execute)


@pytest.mark.usefixtures("ticking")
def test_progress_is_shown_many_times_in_a_range_and_its_stages_are_its_time(with_worker):
    seen = {}

    def act(worker):
        steps = []
        worker.on_step = lambda: steps.append(1)
        began = time.perf_counter()
        receipts = done(worker, 0, ["small", "wide"])
        seen.update(wall=time.perf_counter() - began, steps=len(steps), receipts=receipts)

    with_worker(act)
    assert seen["steps"] >= 16 + 2 + 2 + 2  # images, two teachers' images, captions, writes
    first, last = (receipt.timings_s for receipt in seen["receipts"])
    assert set(last) == {*HOST_STAGES, *DEVICE_STAGES, "write"}
    assert all(seconds >= 0 for seconds in last.values())
    assert first["forward_image"] == last["forward_image"]
    told = sum(last[stage] for stage in DEVICE_STAGES) + first["write"] + last["write"]
    # The rest is the receipts themselves.
    assert 0.4 * seen["wall"] < told <= seen["wall"]


def test_a_run_in_this_process_stops_when_it_is_asked_to_and_can_go_on(
    tmp_path, corpus, teachers, write_pipeline, prepare
):
    pipeline = prepare(write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers=teachers))

    def stopped_at_once(job, work, tracker):
        tracker.stop()
        execute_here(job, work, tracker)

    outcome = run(pipeline, execute=stopped_at_once)
    assert (outcome.stopped, outcome.done) == (True, 0)
    outcome = run(pipeline, execute=execute_here)
    assert (outcome.stopped, outcome.found, outcome.done) == (False, 0, 8)


def test_a_device_that_is_broken_ends_a_run_in_this_process_instead_of_giving_up_range_after_range(
    tmp_path, corpus, teachers, write_pipeline, prepare, monkeypatch
):
    pipeline = prepare(write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers=teachers))
    key = FeatureStore(tmp_path / "store").pairs.read(17, 18, ["key"])["key"][0].as_py()
    monkeypatch.setattr(faults, "_broken", threading.Event())
    monkeypatch.setenv(faults.MISBEHAVE_AT, f"device:{key}")
    with pytest.raises(ExtractionError, match="range 1: this process can no longer use the device") as caught:
        run(pipeline, execute=execute_here)
    assert "without --local" in caught.value.hint
    assert sorted(FeatureStore(tmp_path / "store").receipts("small")) == [0]
    monkeypatch.setattr(faults, "_broken", threading.Event())
    monkeypatch.delenv(faults.MISBEHAVE_AT)
    assert run(pipeline, execute=execute_here).done == 6
