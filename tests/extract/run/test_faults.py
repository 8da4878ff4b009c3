"""Faults while a store is written, each really made: nothing committed is lost, the rest is redone alike."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from extract.corpora.phantom.corpus import PhantomSettings, write_corpus
from store.check.verify import verify
from store.faults import KILL_AT, STOP_AT
from store.format.records import receipt_key
from store.io.location import locate
from store.read.reader import FeatureStore
from tests.forked import run_forked

pytestmark = [pytest.mark.fault, pytest.mark.end_to_end]

RANGES, TEACHERS = 6, 2
UNITS = RANGES * TEACHERS
WRITES_OF_A_UNIT = 5  # four store shards and the receipt
WRITES_BEFORE = 1 + 2 * (1 + 4 + 1)  # metadata of the root; of each teacher, its arrays, its spec

STEPS = [
    *(f"write.temporary:{n}" for n in (1, 3, WRITES_BEFORE, WRITES_BEFORE + 3, WRITES_BEFORE + 5, WRITES_BEFORE + 27)),
    *(f"write.replaced:{n}" for n in (1, 7, WRITES_BEFORE + 1, WRITES_BEFORE + WRITES_OF_A_UNIT, WRITES_BEFORE + 29)),
    *(f"commit.object:{n}" for n in (1, 2, 3, 4, 18)),
    *(f"{step}:{n}" for step in ("commit.begin", "commit.objects", "commit.done") for n in (1, UNITS)),
]


@pytest.fixture(scope="module")
def corpus_96(tmp_path_factory):
    """A phantom corpus of six ranges."""
    folder = tmp_path_factory.mktemp("corpus_96")
    write_corpus(folder, PhantomSettings(rows=16 * RANGES, seed=8))
    return folder


@pytest.fixture
def config(tmp_path, corpus_96, teachers, write_pipeline, prepare):
    """A pipeline whose store is indexed and empty."""
    path = write_pipeline(tmp_path, files=[corpus_96 / "*.tar"], teachers=teachers)
    prepare(path)
    return path


@pytest.fixture(scope="module")
def undisturbed_bytes(tmp_path_factory, corpus_96, teachers, write_pipeline, extract_here, stored_digests):
    """Return what a run without faults stores."""
    path = write_pipeline(tmp_path_factory.mktemp("whole"), files=[corpus_96 / "*.tar"], teachers=teachers)
    return stored_digests(extract_here(path)[0])


@pytest.fixture
def program(repository):
    """Return a function that runs one of our programs to its end in an environment, and returns what it did."""

    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=repository,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def extract(config):
    return ["extract", "run", "--local", "--pipeline", "tiny", "--config", config]


def receipts_below(store):
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.glob("receipts/*/r*.json")}


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_of_a_write_is_completed_to_the_same_bytes(
    config, step, tmp_path, extract_here, stored_digests, undisturbed_bytes
):
    log = tmp_path / "log"
    assert run_forked(*extract(config), log=log, **{KILL_AT: step}) == -signal.SIGKILL, log.read_text()
    store = config.parent / "store"
    kept = receipts_below(store)
    assert len(kept) < UNITS or step == f"commit.done:{UNITS}"
    _, outcome = extract_here(config)
    assert (outcome.found, outcome.done, outcome.failed) == (len(kept), UNITS - len(kept), {})
    assert kept.items() <= receipts_below(store).items()
    assert stored_digests(store) == undisturbed_bytes
    assert not list(store.rglob("*.tmp"))


def _torn(path):
    path.write_bytes(path.read_bytes()[:-7])


def _flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a torn shard": ("features.zarr/wide/image/c/2/0", _torn),
    "a flipped byte": ("features.zarr/wide/text/c/2/0", _flipped),
    "a deleted object": ("features.zarr/wide/status/c/2", os.unlink),
    "a garbled receipt": ("receipts/wide/r000002.json", lambda path: path.write_text("{")),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named_and_mended_by_redoing_that_unit_alone(
    config, what, program, extract_here, stored_digests, undisturbed_bytes
):
    store, _ = extract_here(config)
    before = receipts_below(store)
    key, harm = DAMAGE[what]
    harm(store / key)
    found = program("store", "verify", store, "--deep")
    assert found.returncode == 1, found.stdout
    assert "wide" in found.stdout + found.stderr
    assert "2" in found.stdout + found.stderr
    mended = program("store", "repair", store, "--deep")
    assert mended.returncode == 0, mended.stderr
    _, outcome = extract_here(config)
    assert (outcome.found, outcome.done) == (UNITS - 1, 1)
    assert stored_digests(store) == undisturbed_bytes
    unit = receipt_key("wide", 2)
    assert {k: v for k, v in receipts_below(store).items() if k != unit} == {
        k: v for k, v in before.items() if k != unit
    }
    assert program("store", "verify", store, "--deep").returncode == 0


def test_objects_without_a_receipt_read_as_missing_and_a_receipt_without_objects_is_found(
    config, program, extract_here, stored_digests, undisturbed_bytes
):
    store, _ = extract_here(config)
    (store / receipt_key("small", 1)).unlink()
    assert not FeatureStore(store).read(slice(16, 32), teacher="small", side="image").any()
    for name in ("image/c/4/0", "text/c/4/0", "similarity/c/4", "status/c/4"):
        (store / "features.zarr" / "small" / name).unlink()
    found = program("store", "verify", store)
    assert found.returncode == 1
    assert program("store", "repair", store).returncode == 0
    _, outcome = extract_here(config)
    assert outcome.done == 2
    assert stored_digests(store) == undisturbed_bytes


def test_a_second_extraction_of_the_same_store_is_refused_while_the_first_goes_on(config, program, start):
    first = start(*extract(config)[1:])
    lock = config.parent / "store" / "writer.lock"
    try:
        while first.poll() is None and f"process {first.pid} on" not in lock.read_text():
            pass
        first.send_signal(signal.SIGSTOP)
        second = program(*extract(config))
        assert second.returncode == 1
        assert f"another program is writing to this store (process {first.pid} on" in " ".join(second.stderr.split())
    finally:
        first.send_signal(signal.SIGCONT)
        _, stderr = first.communicate(timeout=120)
    assert first.returncode == 0, stderr


def late_unit(store, range_id=0):
    """Return what a worker has at hand that did a range of a complete store, with features of its own."""
    opened = FeatureStore(store)
    start, stop = opened.info.bounds(range_id)
    features = _unit_features(opened, slice(start, stop))
    return {
        "info": opened.info,
        "spec": opened.spec("small"),
        "range_id": range_id,
        "pairs": opened.pairs.read(start, stop),
        "features": replace(features, image=-features.image, text=-features.text),
        "circumstances": _circumstances(),
    }


@pytest.mark.parametrize("step", ["commit.begin", "commit.object:1", "commit.object:4", "commit.objects"])
def test_a_worker_that_wakes_after_it_was_given_up_cannot_touch_what_is_committed_meanwhile(
    config, tmp_path, extract_here, stored_digests, undisturbed_bytes, repository, step
):
    store, _ = extract_here(config)
    shutil.copytree(store, tmp_path / "complete")
    for key in FeatureStore(store).receipts("small")[0].objects:
        (store / key).unlink()
    (store / receipt_key("small", 0)).unlink()
    script = """
import sys
from store.format.commit import commit_unit
from store.io.location import locate
from tests.extract.run.test_faults import late_unit
commit_unit(locate(sys.argv[1]), holds_lock=False, **late_unit(sys.argv[2]))
"""
    environment = {**os.environ, STOP_AT: step}
    command = [sys.executable, "-c", script, store, tmp_path / "complete"]
    with subprocess.Popen(command, cwd=repository, env=environment) as worker:
        assert os.WIFSTOPPED(os.waitpid(worker.pid, os.WUNTRACED)[1])
        assert extract_here(config)[1].done == 1
        committed = receipts_below(store)
        assert stored_digests(store) == undisturbed_bytes
        worker.send_signal(signal.SIGCONT)
        assert worker.wait(60) == 0
    assert (stored_digests(store), receipts_below(store)) == (undisturbed_bytes, committed)
    assert extract_here(config)[1].done == 0
    assert not (store / "staged").exists()
    assert verify(locate(store), deep=True).complete


def _unit_features(store, rows):
    from store.format.commit import UnitFeatures

    image, text = (store.read(rows, teacher="small", side=side).astype(np.float32) for side in ("image", "text"))
    return UnitFeatures(image=image, text=text, status=store.status("small")[rows], reasons={})


def _circumstances():
    from store.format.commit import Circumstances

    return Circumstances(device="cpu", batch_size=16, run_id="late", attempt=1, timings_s={}, versions={})


def test_a_full_disk_ends_the_run_with_one_message_and_costs_only_what_was_in_work(
    tmp_path,
    small_disk,
    corpus_96,
    teachers,
    write_pipeline,
    prepare,
    program,
    extract_here,
    stored_digests,
    undisturbed_bytes,
):
    store, enlarge = small_disk
    config = write_pipeline(tmp_path, files=[corpus_96 / "*.tar"], teachers=teachers)
    prepare(config)
    full = program(*extract(config))
    assert full.returncode == 1
    assert "No space left on device" in full.stderr
    assert "what was committed before stays" in full.stderr
    assert "Traceback" not in full.stderr
    kept = receipts_below(store)
    assert 0 < len(kept) < UNITS
    enlarge()
    _, outcome = extract_here(config)
    assert (outcome.found, outcome.done) == (len(kept), UNITS - len(kept))
    assert kept.items() <= receipts_below(store).items()
    assert stored_digests(store) == undisturbed_bytes


@pytest.mark.skipif(os.geteuid() != 0, reason="only the super-user can become another user")
def test_a_folder_that_may_not_be_written_is_named_and_nothing_changes(
    config, extract_here, stored_digests, repository
):
    store, _ = extract_here(config)
    before = stored_digests(store)
    for unit in ("receipts/small/r000000.json", "receipts/small/r000001.json"):
        (store / unit).unlink()
    # The first commit loads every module; the second is made by a user who may only read.
    script = """
import os, sys
from store.errors import LocationError
from store.read.reader import FeatureStore
from tests.forked import run_forked
from tests.extract.run.test_faults import _circumstances, _unit_features
from store.format.commit import commit_unit
store = FeatureStore(sys.argv[1])
def commit(range_id):
    start, stop = store.info.bounds(range_id)
    commit_unit(store.location, info=store.info, spec=store.spec("small"), range_id=range_id,
                pairs=store.pairs.read(start, stop), features=_unit_features(store, slice(start, stop)),
                circumstances=_circumstances())
commit(0)
os.seteuid(65534)
try:
    commit(1)
except LocationError as error:
    print(error)
"""
    (store / "..").resolve().chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", script, store], cwd=repository, capture_output=True, text=True, check=True
    )
    assert "Permission denied" in done.stdout
    assert str(store) in done.stdout
    assert not (store / "receipts/small/r000001.json").exists()
    assert {key for key in before if before[key] != stored_digests(store)[key]} <= {
        f"small/{name}" for name in ("image/c/0/0", "text/c/0/0", "similarity/c/0", "status/c/0")
    }


def test_a_store_that_was_moved_works_unchanged(config, tmp_path, program, extract_here, stored_digests):
    store, _ = extract_here(config)
    elsewhere = tmp_path / "some" / "where else"
    elsewhere.parent.mkdir()
    shutil.move(store, elsewhere)
    assert program("store", "verify", elsewhere, "--deep").returncode == 0
    pipeline = ["--set", f"store.path={elsewhere}"]
    again = program(*extract(config), *pipeline)
    assert again.returncode == 0
    assert "nothing to do" in again.stderr
