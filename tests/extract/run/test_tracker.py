"""Reports of a run: its progress in the store, the request to stop, and its last word."""

from __future__ import annotations

import json
import logging
import threading

import pytest

from extract.run.tracker import Outcome, Tracker, progress_key, stop_key
from store.errors import LocationError
from store.format.records import BadRow, Receipt, Status, StoredObject
from store.io.folder import Folder


def receipt(teacher, range_id, *, bad=(), **timings):
    return Receipt(
        teacher=teacher,
        range=range_id,
        start=100 * range_id,
        stop=100 * (range_id + 1),
        spec_hash="s",
        pairs_digest="p",
        objects={"k": StoredObject(nbytes=1, sha256="0")},
        status_counts={"ok": 100 - len(bad)},
        bad_rows=[BadRow(row=row, key=f"k{row}", status=Status.BAD_IMAGE, reason="broken") for row in bad],
        timings_s=timings,
        versions={},
        device="cpu",
        batch_size=16,
        run_id="r",
        finished="2026-01-01T00:00:00+00:00",
    )


@pytest.fixture
def clock():
    """A clock that is turned by hand."""
    times = [1000.0]
    return times, lambda: times[0]


def tracker_of(clock, **outcome):
    fields = {"units": 20, "found": 4} | outcome
    return Tracker(Outcome(**fields), run_id="r", max_bad_fraction=0.5, clock=clock[1])


def test_rates_and_the_time_left_count_from_when_a_worker_was_ready(clock):
    tracker = tracker_of(clock)
    clock[0][0] += 500
    tracker.workers(ready=0, starting=2, busy=0)
    tracker.workers(ready=1, starting=1, busy=1)
    clock[0][0] += 10
    shared = {"wait_for_images": 1.0, "forward_image": 3.0}
    tracker.note([receipt("a", 0, bad=[3], **shared, write=0.5), receipt("b", 0, **shared, write=0.25)])
    said = tracker.record("running")
    assert said["rows_per_s"] == {"a": 10.0, "b": 10.0}
    assert (said["units"], said["found"], said["done"]) == (20, 4, 2)
    assert said["seconds_left"] == 10 / 2 * 14
    assert said["actors"] == {"ready": 1, "starting": 1, "busy": 1, "waiting": 0}
    assert said["bad_rows"] == {"bad_image: broken": 1}
    # Stages that a range's teachers share count once, each unit's own write adds up.
    assert said["stage_seconds"] == {"forward_image": 3.0, "wait_for_images": 1.0, "write": 0.75}
    assert "the teachers work 75% and wait 25% of the time" in tracker.details()


def test_many_reasons_are_told_in_sum(clock):
    tracker = tracker_of(clock)
    tracker.outcome.bad_rows.update({f"reason {number}": 1 for number in range(100)})
    told = tracker.record("running")["bad_rows"]
    assert (len(told), sum(told.values()), told["other reasons"]) == (21, 100, 80)


def test_a_reason_that_comes_while_progress_is_read_does_no_harm(clock):
    tracker = tracker_of(clock)
    reasons = tracker.outcome.bad_rows

    class Meddling(int):
        """A count at whose comparison another thread's turn comes, which counts a new reason."""

        def __lt__(self, other):
            reasons["a new one"] += 1
            return int(self) < int(other)

    reasons.update({f"reason {number}": Meddling(number) for number in range(1, 40)})
    told = tracker.record("running")["bad_rows"]
    assert told["other reasons"] == sum(range(1, 20))
    assert reasons["a new one"] > 0


def test_progress_is_in_the_store_from_the_first_moment_and_says_how_it_ended(clock, tmp_path):
    store, tracker = Folder(tmp_path), tracker_of(clock)
    with tracker.published(store, interval_s=0.01):
        while not store.exists(progress_key("r")):
            pass
        assert json.loads(store.read(progress_key("r")))["state"] == "running"
        tracker.note([receipt("a", 0)])
    said = json.loads(store.read(progress_key("r")))
    assert (said["state"], said["done"], said["run_id"]) == ("finished", 1, "r")


@pytest.mark.parametrize(("raised", "state"), [(KeyboardInterrupt, "stopped"), (RuntimeError, "failed")])
def test_the_last_word_of_a_run_that_breaks_off(clock, tmp_path, raised, state):
    store, tracker = Folder(tmp_path), tracker_of(clock)

    def break_off():
        with tracker.published(store, interval_s=0.01):
            raise raised

    with pytest.raises(raised):
        break_off()
    assert json.loads(store.read(progress_key("r")))["state"] == state


def test_a_stop_object_in_the_store_is_seen(clock, tmp_path):
    store, tracker = Folder(tmp_path), tracker_of(clock)
    with tracker.published(store, interval_s=0.01):
        assert not tracker.stop_requested
        store.write(stop_key("r"), b"")
        while not tracker.stop_requested:
            pass
        tracker.outcome.stopped = True
    assert json.loads(store.read(progress_key("r")))["state"] == "stopped"


class Refusing(Folder):
    """A folder that takes no progress."""

    def __init__(self, path):
        super().__init__(path)
        self.refused = threading.Event()

    def write(self, key, data):
        self.refused.set()
        raise LocationError(f"{key}: No space left on device")


def test_a_store_that_takes_no_progress_ends_no_run(clock, tmp_path, caplog):
    store, tracker = Refusing(tmp_path), tracker_of(clock)
    with caplog.at_level(logging.WARNING), tracker.published(store, interval_s=0.01):
        assert store.refused.wait(10)
    assert "the run's progress cannot be written" in caplog.text
