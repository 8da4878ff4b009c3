"""The worker's stages when something fails, is dropped, or comes from several threads."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from extract.run import run_spec
from extract.run.dispatch import execute_here
from extract.run.run import run
from extract.run.run_spec import build_worker
from extract.worker import worker as worker_module
from extract.worker.decoding import Decoder
from extract.worker.device import Device
from extract.worker.task import TaskDroppedError
from store import console
from store.errors import CorpusError
from store.format import commit
from store.read.reader import FeatureStore
from tests.extract.tasks import PATIENCE_S, Gate, tasks


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


def test_tasks_may_be_given_from_several_threads_at_once(with_worker, monkeypatch):
    def slow_pool(*arguments, **options):
        time.sleep(0.1)  # long enough for every thread to see that there is none yet
        return ThreadPoolExecutor(*arguments, **options)

    monkeypatch.setattr(worker_module, "ThreadPoolExecutor", slow_pool)

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

    with_worker(act)


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


def test_a_thread_that_does_not_end_is_left_to_the_end_of_the_process(with_worker, monkeypatch):
    go_on, begun = threading.Event(), threading.Event()
    monkeypatch.setattr(console, "_threads_left", threading.Event())
    monkeypatch.setattr(worker_module, "CLOSE_S", 0.1)

    def hang():
        begun.set()
        go_on.wait(PATIENCE_S)

    def act(worker):
        worker.teachers = {name: Gate(teacher, hang) for name, teacher in worker.teachers.items()}
        worker.submit(tasks(0)[0])
        assert begun.wait(PATIENCE_S)

    with_worker(act)
    assert console._threads_left.is_set()
    go_on.set()
