"""The worker's stages side by side: what overlaps, what is bounded, and that no byte depends on it."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref

import numpy as np
import pytest
import torch

from extract.run import run_spec
from extract.run.run_spec import build_worker
from extract.worker import worker as worker_module
from extract.worker.decoding import Decoder
from extract.worker.device import Device
from extract.worker.task import Task
from store.format import commit
from tests.extract.tasks import PATIENCE_S, Gate, tasks


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
    tmp_path, corpus, teachers, write_pipeline, extract_here, stored_digests, monkeypatch, ahead, threads, at_once
):
    options = {"files": [corpus / "*.tar"], "teachers": teachers, "batch_size": 5}
    plain = stored_digests(extract_here(write_pipeline(tmp_path / "plain", **options))[0])
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
    assert stored_digests(extract_here(path)[0]) == plain


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
    # Two geometries; buffers that wait for their next use are counted.
    assert 2 * 2 <= max(most) <= 2 * worker_module.BATCHES_AHEAD


@pytest.mark.parametrize("rows", [[4, 4, 4], [4, 3, 4]])
def test_buffers_are_used_again_and_there_are_never_more_than_were_in_use_at_once(rows):
    device, made = Device("cpu"), set()
    for count in rows:
        held = [device.staging(count, size, size, 3) for size in (8, 16)]
        made |= {one.data_ptr() for one in held}
        device.free(held)
        assert len(device._free) == 2
    assert len(set(rows)) > 1 or len(made) == 2


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
