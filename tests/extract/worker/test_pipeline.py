"""The worker's stages side by side: what overlaps, what is bounded, what fails, and that no byte depends on it."""

from __future__ import annotations

import gc
import random
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from extract.run import run_spec
from extract.run.dispatch import execute_here
from extract.run.run import run
from extract.run.run_spec import build_worker
from extract.worker import worker as worker_module
from extract.worker.decoding import Decoder
from extract.worker.device import Device
from extract.worker.task import Task, TaskDroppedError
from store.errors import CorpusError
from store.format import commit
from store.read.reader import FeatureStore

PATIENCE_S = 60


class Gate:
    """A teacher that calls a function before it encodes images."""

    def __init__(self, teacher, before):
        self._teacher, self._before = teacher, before

    def __getattr__(self, name):
        return getattr(self._teacher, name)

    def image_features(self, pixels_BHWC):
        self._before()
        return self._teacher.image_features(pixels_BHWC)


@pytest.fixture
def pipeline(tmp_path, corpus, teachers, write_pipeline, prepare):
    """Sixty pairs in four ranges, two teachers; indexed into ``store``."""
    return prepare(write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers=teachers, batch_size=8))


@pytest.fixture
def with_worker(pipeline):
    """Return a function that calls another with a worker over the sixty pairs."""

    def call(act):
        def execute(spec, _work, _tracker):
            with build_worker(spec) as worker:
                act(worker)

        return run(pipeline, execute=execute)

    return call


def tasks(*ranges):
    return [Task(range_id=number, teachers=("small", "wide")) for number in ranges]


def test_the_next_range_is_decoded_while_one_is_encoded_and_encoded_while_one_is_committed(with_worker, monkeypatch):
    decoded, encoded, calls = threading.Event(), threading.Event(), []
    decode = Decoder.decode

    def decoding(self, key, *rest):
        calls.append(key)
        if len(calls) > 16:
            decoded.set()
        return decode(self, key, *rest)

    def encoding():
        # The first range's images wait for the second range's decoding: one after the other, that would never end.
        assert decoded.wait(PATIENCE_S)
        if len(decoding_done) == 4:  # two teachers, two batches of the first range
            encoded.set()
        decoding_done.append(1)

    def committing(*arguments, **options):
        assert encoded.wait(PATIENCE_S)
        return commit.commit_unit(*arguments, **options)

    decoding_done = []
    monkeypatch.setattr(Decoder, "decode", decoding)
    monkeypatch.setattr(worker_module, "commit_unit", committing)

    def act(worker):
        worker.teachers = {name: Gate(teacher, encoding) for name, teacher in worker.teachers.items()}
        first, second = (worker.submit(task) for task in tasks(0, 1))
        assert [len(one.result(PATIENCE_S)) for one in (first, second)] == [2, 2]

    with_worker(act)


@pytest.mark.parametrize(("ahead", "threads", "at_once"), [(1, 1, 1), (2, 3, 2), (9, 2, 4)])
def test_no_byte_depends_on_depth_threads_or_timing(
    tmp_path, corpus, teachers, write_pipeline, extract_here, stored_bytes, monkeypatch, ahead, threads, at_once
):
    options = {"files": [corpus / "*.tar"], "teachers": teachers, "batch_size": 5}
    plain = stored_bytes(extract_here(write_pipeline(tmp_path / "plain", **options))[0])
    rng, decode = random.Random(ahead), Decoder.decode

    def late(self, *arguments):
        time.sleep(rng.random() / 200)
        return decode(self, *arguments)

    def build(spec):
        worker = build_worker(spec)
        worker._ahead = threading.Semaphore(ahead)
        gates = {
            name: Gate(teacher, lambda: time.sleep(rng.random() / 50)) for name, teacher in worker.teachers.items()
        }
        worker.teachers = gates
        return worker

    monkeypatch.setattr(Decoder, "decode", late)
    monkeypatch.setattr(run_spec, "build_worker", build)
    monkeypatch.setattr("extract.run.schedule.TASKS_AT_ONCE", at_once)
    path = write_pipeline(tmp_path / "other", **options, decode_threads=threads)
    assert stored_bytes(extract_here(path)[0]) == plain


def test_pixels_in_memory_are_bounded_however_many_ranges_wait(with_worker, monkeypatch):
    alive, most = set(), []
    staging = Device.staging

    def counting(self, *shape):
        made = staging(self, *shape)
        alive.add(id(made))
        weakref.finalize(made, alive.discard, id(made))
        most.append(len(alive))
        return made

    monkeypatch.setattr(Device, "staging", counting)

    def act(worker):
        worker.teachers = {name: Gate(teacher, lambda: time.sleep(0.01)) for name, teacher in worker.teachers.items()}
        for done in [worker.submit(task) for task in tasks(0, 1, 2, 3)]:
            done.result(PATIENCE_S)

    with_worker(act)
    gc.collect()
    assert not alive
    # Two geometries.
    assert 2 * 2 <= max(most) <= 2 * worker_module.BATCHES_AHEAD


@pytest.mark.parametrize("stage", ["decode", "encode", "commit"])
def test_a_stage_that_fails_fails_its_range_and_no_other(with_worker, tmp_path, monkeypatch, stage):
    class DeviceError(Exception):
        pass

    calls, decode = [], Decoder.decode

    def failing(*arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            raise DeviceError("once")
        return {"commit": commit.commit_unit, "decode": decode}[stage](*arguments, **options)

    def act(worker):
        if stage == "encode":

            def encode():
                calls.append(1)
                if len(calls) == 3:
                    raise DeviceError("once")

            worker.teachers = {name: Gate(teacher, encode) for name, teacher in worker.teachers.items()}
        elif stage == "decode":
            monkeypatch.setattr(Decoder, "decode", failing)
        else:
            monkeypatch.setattr(worker_module, "commit_unit", failing)
        ends = [worker.submit(task) for task in tasks(0, 1, 2, 3)]
        with pytest.raises(DeviceError, match="once"):
            ends[0].result(PATIENCE_S)
        assert all(len(end.result(PATIENCE_S)) == 2 for end in ends[1:])
        assert len(worker.submit(tasks(0)[0]).result(PATIENCE_S)) == 2

    with_worker(act)
    store = FeatureStore(tmp_path / "store")
    assert all(store.is_complete(name) for name in store.teachers)


def test_a_corpus_that_changed_ends_the_run_and_commits_nothing_of_that_range(pipeline, tmp_path):
    store = FeatureStore(tmp_path / "store")
    first = store.pairs.read(20, 21, ["uri", "member"]).to_pylist()[0]
    copied = tmp_path / "moved"
    copied.mkdir()
    for file in sorted(Path(store.info.corpus_root).glob("*.tar")):
        data = bytearray(file.read_bytes())
        if file.name == first["uri"]:
            data[first["member"]["offset"] + 40] ^= 1
        (copied / file.name).write_bytes(data)
    with pytest.raises(CorpusError, match="not the one that was indexed"):
        run(pipeline, execute=execute_here, corpus_root=copied)
    assert 1 not in FeatureStore(tmp_path / "store").receipts("small")
    assert run(pipeline, execute=execute_here).failed == {}


def test_tasks_may_be_given_from_several_threads_at_once(with_worker):
    def act(worker):
        barrier, ends = threading.Barrier(3), []

        def give(task):
            barrier.wait()
            ends.append(worker.submit(task))

        givers = [threading.Thread(target=give, args=(task,)) for task in tasks(0, 1, 2)]
        for giver in givers:
            giver.start()
        for giver in givers:
            giver.join()
        assert len(worker._threads) == 4
        assert len(worker._jobs) == 3
        assert all(len(end.result(PATIENCE_S)) == 2 for end in ends)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with_worker(act)
    finally:
        sys.setswitchinterval(interval)


def test_each_teacher_of_a_batch_is_a_step(with_worker):
    seen, steps = [], []

    def act(worker):
        worker.on_step = lambda: steps.append(1)
        worker.decoder.batch_size = 16
        worker.teachers = {
            name: Gate(teacher, lambda: seen.append(len(steps))) for name, teacher in worker.teachers.items()
        }
        worker.submit(tasks(0)[0]).result(PATIENCE_S)

    with_worker(act)
    assert len(seen) == len({*seen}) == 4  # two teachers, two slices of eight images each


def test_a_device_that_cannot_be_marked_fails_its_tasks_instead_of_keeping_them(with_worker, monkeypatch):
    def broken(_):
        raise RuntimeError("no such device")

    monkeypatch.setattr(Device, "mark", broken)

    def act(worker):
        with pytest.raises(RuntimeError, match="no such device"):
            worker.submit(tasks(0)[0]).result(PATIENCE_S)

    with_worker(act)


def test_dropping_ends_every_task_but_the_one_that_is_committed(with_worker, monkeypatch):
    committing, go_on, encoding = threading.Event(), threading.Event(), threading.Event()

    def slow_commit(*arguments, **options):
        committing.set()
        assert go_on.wait(PATIENCE_S)
        return commit.commit_unit(*arguments, **options)

    def encode():
        if committing.is_set():
            encoding.set()
            go_on.wait(PATIENCE_S)

    monkeypatch.setattr(worker_module, "commit_unit", slow_commit)

    def act(worker):
        worker.teachers = {name: Gate(teacher, encode) for name, teacher in worker.teachers.items()}
        ends = [worker.submit(task) for task in tasks(0, 1, 2)]
        assert committing.wait(PATIENCE_S)
        assert encoding.wait(PATIENCE_S)
        worker.drop()
        for end in ends[1:]:
            with pytest.raises(TaskDroppedError):
                end.result(0)
        go_on.set()
        assert len(ends[0].result(PATIENCE_S)) == 2
        assert len(worker.submit(tasks(1)[0]).result(PATIENCE_S)) == 2

    with_worker(act)


def test_a_run_that_is_asked_to_stop_gives_up_what_is_not_being_committed(pipeline, monkeypatch):
    def stopping(spec, work, tracker):
        def build(spec):
            worker = build_worker(spec)
            worker.teachers = {name: Gate(teacher, tracker.stop) for name, teacher in worker.teachers.items()}
            return worker

        monkeypatch.setattr(run_spec, "build_worker", build)
        execute_here(spec, work, tracker)

    outcome = run(pipeline, execute=stopping)
    assert outcome.stopped
    assert outcome.done < 8
    assert not outcome.failed
    monkeypatch.setattr(run_spec, "build_worker", build_worker)
    assert run(pipeline, execute=execute_here).done == 8 - outcome.done


def test_an_interrupt_ends_the_workers_threads(with_worker):
    before = threading.active_count()
    started = threading.Event()

    def act(worker):
        def interrupt():
            started.set()

        worker.teachers = {name: Gate(teacher, interrupt) for name, teacher in worker.teachers.items()}
        for task in tasks(0, 1, 2, 3):
            worker.submit(task)
        assert started.wait(PATIENCE_S)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with_worker(act)
    deadline = time.monotonic() + PATIENCE_S
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before


class ScriptedMark:
    """A moment in a device's work that a test sets."""

    def __init__(self, at):
        self.at = at

    def wait(self):
        pass

    def seconds_since(self, earlier):
        return self.at - earlier.at


class ScriptedDevice(Device):
    """A device on which every mark is the next of a script, as a card's marks come later than the host's calls."""

    def __init__(self, moments):
        super().__init__("cpu")
        self._moments = iter(moments)

    def mark(self):
        return ScriptedMark(next(self._moments))


def test_the_devices_time_is_told_by_its_own_marks(with_worker):
    seen = {}

    def act(worker):
        # begin; of the one batch: two teachers' images, two teachers' captions, end
        moments = [0.0, 4.0, 5.0, 5.5, 7.5, 8.5, 9.0, 9.0, 12.0, 12.25]
        worker.encoder.device = ScriptedDevice(moments)
        worker.decoder.batch_size = 16
        [receipt, _] = worker.submit(tasks(0)[0]).result(PATIENCE_S)
        seen.update(receipt.timings_s, by_teacher=dict(worker.encoder.teacher_s))

    with_worker(act)
    assert seen["forward_image"] == 3.0
    assert seen["forward_text"] == 3.5
    assert seen["wait_for_tokens"] == 1.0
    waits = [seen[stage] for stage in ("wait_for_range", "wait_for_images")]
    assert seen["other"] + sum(waits) == pytest.approx(12.25 - 3.0 - 3.5 - 1.0, abs=0.001)
    assert seen["by_teacher"]["wide", "forward_text"] == 3.0


def test_an_image_that_is_bad_or_left_out_is_black_whatever_the_memory_held(with_worker, monkeypatch):
    decode, seen = Decoder.decode, []

    def failing(self, key, read, *rest):
        return decode(self, key, (lambda: b"no image") if key.endswith("03") else read, *rest)

    class Seeing(Gate):
        def image_features(self, pixels_BHWC):
            seen.append(pixels_BHWC.clone())
            return self._teacher.image_features(pixels_BHWC)

    monkeypatch.setattr(Decoder, "decode", failing)
    monkeypatch.setattr(Device, "staging", lambda _, *shape: torch.full(shape, 255, dtype=torch.uint8))

    def act(worker):
        worker.decoder.batch_size = 16
        worker.teachers = {"small": Seeing(worker.teachers["small"], None)}
        task = Task(range_id=0, teachers=("small",), killers={5: "it kills"})
        [receipt] = worker.submit(task).result(PATIENCE_S)
        assert {bad.row for bad in receipt.bad_rows} == {3, 5}

    with_worker(act)
    pixels_BHWC = torch.cat(seen)
    assert [row for row in range(16) if not pixels_BHWC[row].any()] == [3, 5]


def test_images_and_captions_take_turns(with_worker):
    order = []

    class Order(Gate):
        def image_features(self, pixels_BHWC):
            order.append("image")
            return self._teacher.image_features(pixels_BHWC)

        def text_features(self, ids_BL, lengths_B):
            order.append("text")
            return self._teacher.text_features(ids_BL, lengths_B)

    def act(worker):
        worker.decoder.batch_size = 4
        worker.teachers = {"small": Order(worker.teachers["small"], None)}
        worker.submit(Task(range_id=0, teachers=("small",))).result(PATIENCE_S)

    with_worker(act)
    assert order.count("image") == 4
    places = np.flatnonzero(np.array(order) == "text")
    assert places[0] <= 2
    assert len(places) > 1
