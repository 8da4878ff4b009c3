"""The state of a store, and stopping its run, from the store alone: in a folder and on object storage."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from typer.main import get_command

from extract.cli.program import app
from extract.monitor.status import OLD_S, read_status, stop
from extract.run.dispatch import execute_here
from extract.run.run import run
from extract.run.tracker import progress_key, stop_key
from store.errors import StoreError, StoreNotFoundError
from store.format.commit import Circumstances, UnitFeatures, commit_unit, register_teacher
from store.format.pairs import PAIR_SCHEMA, PairTable
from store.format.records import RETRY_FOLDER, STORE_KEY, Spec, Status, read_store_info, receipt_key, write_record
from store.index.create import create_store
from store.index.merge import CorpusIndex
from store.io.location import locate
from store.io.lock import LOCK_KEY, exclusive, holder

RUN = "20260101T000000-abcdef"


@pytest.fixture(params=["folder", "object storage"])
def store(request, tmp_path):
    """A store of ten rows in ranges of four, with one teacher that has two of the three."""
    place = locate(tmp_path / "store") if request.param == "folder" else locate(f"memory://status/{tmp_path.name}")
    rows = [{"row": n, "key": f"k{n}", "caption": f"caption {n}"} for n in range(10)]
    table = pa.Table.from_pylist(rows, schema=PAIR_SCHEMA)
    info = create_store(place, CorpusIndex(table=table, root="nowhere"), signature={}, range_rows=4, chunk_rows=2)
    fields = {"embed_dim": 3, "weights_sha256": "00", "architecture": {}, "preprocessing": {}, "tokenizer": {}}
    spec = Spec(teacher="alpha", output="projected", compute_dtype="float32", **fields)
    register_teacher(place, spec, info=info)
    for range_id in (0, 2):
        commit(place, info, spec, range_id)
    return place


def commit(place, info, spec, range_id):
    start, stop_row = info.bounds(range_id)
    ones = np.ones((stop_row - start, spec.embed_dim), np.float32)
    commit_unit(
        place,
        info=info,
        spec=spec,
        range_id=range_id,
        pairs=PairTable(place, info).read(start, stop_row),
        features=UnitFeatures(image=ones, text=ones, status=np.full(len(ones), Status.OK, np.uint8), reasons={}),
        circumstances=Circumstances(device="cpu", batch_size=1, run_id=RUN, attempt=1, timings_s={}, versions={}),
    )


def say(place, *, state="running", age_s=1.0, run_id=RUN, **changes):
    updated = datetime.now(UTC) - timedelta(seconds=age_s)
    content = {"run_id": run_id, "pid": os.getpid(), "host": socket.gethostname()}
    content |= {"started": "2026-01-01T00:00:00+00:00"}
    content |= {"updated": updated.isoformat(), "state": state, "units": 3, "found": 0, "done": 2}
    content |= {"failed_ranges": {}, "bad_rows": {}, "rows_per_s": {"alpha": 12.5}, "seconds_left": 60.0}
    content |= {"actors": {"ready": 2, "starting": 0, "busy": 1}, "stage_seconds": {}, **changes}
    place.write(progress_key(run_id), json.dumps(content).encode())


def command(*arguments):
    return get_command(app)(list(arguments), prog_name="extract", standalone_mode=False)


def test_units_are_counted_from_receipts_and_nothing_else_is_needed(store):
    found = read_status(store)
    assert (found.rows, found.ranges, found.units, dict(found.teachers)) == (10, 3, 3, {"alpha": 2})
    assert (found.lock, found.progress) == (None, None)
    assert found.as_json()["run"] is None


def test_a_receipt_from_before_an_append_counts_as_not_done(store):
    info = read_store_info(store)
    write_record(store, STORE_KEY, info.model_copy(update={"rows": 12}))
    assert dict(read_status(store).teachers) == {"alpha": 1}
    write_record(store, STORE_KEY, info.model_copy(update={"rows": 13}))
    assert read_status(store).ranges == 4


def test_units_that_are_marked_to_be_done_again_are_counted(store):
    store.write(receipt_key("alpha", 0, folder=RETRY_FOLDER), b"{}")
    found = read_status(store)
    assert found.retries == {"alpha": 1}
    assert json.loads(json.dumps(found.as_json()))["retries"] == {"alpha": 1}


def test_the_latest_run_is_shown_with_its_age_and_the_holder_of_the_store(store):
    say(store, state="failed", run_id="20250101T000000-ffffff", age_s=9000)
    say(store, age_s=5)
    with exclusive(store):
        found = read_status(store)
    assert found.lock.startswith("process ")
    assert (found.progress.run_id, found.progress.state, found.progress.silent) == (RUN, "running", False)
    assert 5 <= found.progress.age_s < 3600
    assert found.as_json()["run"]["actors"] == {"ready": 2, "starting": 0, "busy": 1}


def test_a_run_that_was_long_silent_is_said_to_be(store):
    say(store, age_s=OLD_S + 60)
    assert read_status(store).progress.silent
    say(store, state="finished", age_s=OLD_S + 60)
    assert not read_status(store).progress.silent


def test_progress_that_cannot_be_read_is_passed_over_with_a_warning(store, caplog):
    store.write(progress_key(RUN), b'{"state": "runn')
    assert read_status(store).progress is None
    assert f"{progress_key(RUN)}: cannot be read" in caplog.text


def test_looking_takes_no_lock_and_leaves_the_holders_name(store):
    assert holder(store) is None
    with exclusive(store):
        first, second = holder(store), holder(store)
        assert first == second is not None
    with exclusive(store):
        assert holder(store) is not None
    assert holder(store) is None


def test_a_writer_is_not_turned_away_by_one_who_only_looks(tmp_path):
    store = locate(tmp_path)
    with (store.path / LOCK_KEY).open("a+") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        gone = threading.Timer(0.05, fcntl.flock, (looking, fcntl.LOCK_UN))
        gone.start()
        with exclusive(store):
            assert f"process {os.getpid()}" in holder(store)
        gone.join()


def test_no_store_has_no_status(tmp_path):
    with pytest.raises(StoreNotFoundError):
        read_status(locate(tmp_path))


class Driver:
    """Holds a store as a driver does and obeys the object that asks it to stop."""

    def __init__(self, place, *, last="stopped", obeys=True):
        self.place, self.last, self.obeys, self.over = place, last, obeys, threading.Event()
        self.holds = threading.Event()
        self.thread = threading.Thread(target=self.work)

    def work(self):
        with exclusive(self.place):
            say(self.place)
            self.holds.set()
            while not self.over.wait(0.01) and not (self.obeys and self.place.exists(stop_key(RUN))):
                pass
            say(self.place, state=self.last)

    def __enter__(self):
        self.thread.start()
        self.holds.wait()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def test_a_run_is_asked_to_stop_and_waited_for(store):
    with Driver(store):
        done = stop(store, wait_s=60)
    assert (done.outcome, done.run_id, done.lock, done.progress.state) == ("stopped", RUN, None, "stopped")
    assert not store.exists(stop_key(RUN))


def test_a_run_that_ends_meanwhile_has_ended(store):
    with Driver(store, last="finished"):
        assert stop(store, wait_s=60).outcome == "ended"


def test_a_run_that_does_not_answer_is_waited_for_no_longer_than_asked_and_the_wish_stays(store):
    with Driver(store, obeys=False):
        done = stop(store, wait_s=0.0)
        assert (done.outcome, done.progress.state) == ("silent", "running")
        assert done.lock.startswith("process ")
        assert store.exists(stop_key(RUN))


def test_where_nothing_runs_nothing_is_written(store):
    before = dict(store.list())
    assert stop(store, wait_s=60).outcome == "nothing"
    say(store, state="finished")
    assert stop(store, wait_s=60).outcome == "nothing"
    say(store)
    done = stop(store, wait_s=60)
    assert (done.outcome, done.run_id) == ("dead", RUN)
    assert set(dict(store.list())) - set(before) <= {progress_key(RUN), "writer.lock"}


def test_a_writer_that_is_no_run_is_named_and_left_alone(store):
    with exclusive(store), pytest.raises(StoreError, match="no run there says that it is running"):
        stop(store, wait_s=60)


def test_a_run_that_was_killed_is_not_taken_for_the_program_that_writes_now(store, capsys):
    say(store, pid=os.getpid() + 1)
    with exclusive(store):
        with pytest.raises(StoreError, match="no run there says that it is running"):
            stop(store, wait_s=5)
        command("status", str(store))
    assert not store.exists(stop_key(RUN))
    assert "it no longer holds the store: it was killed" in capsys.readouterr().out


def test_a_run_of_this_process_says_of_itself_what_status_reads(tmp_path, corpus, teachers, write_pipeline, prepare):
    pipeline = prepare(write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers=teachers, progress_interval_s=0.01))
    run(pipeline, execute=execute_here)
    found = read_status(locate(pipeline.store.path))
    assert (found.progress.state, found.progress.content["done"], found.lock) == ("finished", 8, None)
    assert dict(found.teachers) == {"small": 4, "wide": 4}
    assert found.progress.age_s < 3600


def test_the_commands_say_it_in_words_and_as_json(store, capsys, caplog):
    caplog.set_level("INFO")
    say(store, bad_rows={"bad_image: cut short": 3}, failed_ranges={"1": "died"}, age_s=5)
    with exclusive(store):
        command("status", str(store))
    assert "written to by process" in capsys.readouterr().out
    command("status", str(store))
    said = capsys.readouterr().out
    assert "it was killed; `python -m extract run` goes on where it was" in said
    for part in ("2 of 3 units committed", "alpha: 12.5 rows/s", "60.0 s left", "2 ready, 0 starting, 1 busy"):
        assert part in said
    assert "3 bad rows" in said
    assert "1 ranges given up" in said
    command("status", str(store), "--json")
    assert json.loads(capsys.readouterr().out)["run"]["state"] == "running"
    assert command("stop", str(store), "--json") == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "dead"
    with Driver(store, obeys=False):
        assert command("stop", str(store), "--wait", "0") == 1
    assert "has not stopped within 0 s" in caplog.text


@pytest.mark.parametrize("arguments", [("status",), ("status", "somewhere", "--pipeline", "demo")])
def test_one_place_has_to_be_given(arguments):
    with contextlib.ExitStack() as stack:
        caught = stack.enter_context(pytest.raises(Exception, match="give STORE"))
        command(*arguments)
    assert caught.type.__name__ == "BadParameter"
