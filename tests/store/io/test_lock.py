"""One writer per store: the lock of a folder, and the lease where there is none."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import pytest

from store.errors import LocationError, LockLostError, StoreError
from store.io import lease
from store.io.location import locate
from store.io.lock import LEASE_KEY, LOCK_KEY, exclusive, holder, lease_key, unlock

SHORT_S = 0.8


@pytest.fixture
def no_flock(monkeypatch):
    def refuses(*_arguments):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuses)


@pytest.fixture(params=["memory", "folder"])
def leased(request, tmp_path, monkeypatch):
    """A location of each kind that is locked by a lease, which runs out quickly."""
    for name, value in {"LEASE_S": SHORT_S, "RENEW_S": SHORT_S / 4, "LOOK_S": SHORT_S / 20}.items():
        monkeypatch.setattr(lease, name, value)
    if request.param == "memory":
        return locate(f"memory://{tmp_path.name}")
    request.getfixturevalue("no_flock")
    return locate(tmp_path)


@pytest.fixture(params=["memory", "folder", "flock"])
def place(request, tmp_path):
    """A location under each kind of lock."""
    if request.param == "folder":
        request.getfixturevalue("no_flock")
    return locate(f"memory://{tmp_path.name}") if request.param == "memory" else locate(tmp_path)


def written(place, **content):
    """Write a lease as another program does."""
    fields = {"name": "process 1 on nowhere", "token": "theirs", "lease_s": lease.LEASE_S, **content}
    place.write(lease_key(place), json.dumps(fields).encode())


def test_a_second_writer_is_refused_and_the_lock_goes_with_its_holder(place):
    message = rf"another program is writing .*process {os.getpid()} on"
    with exclusive(place) as held:
        with pytest.raises(StoreError, match=message), exclusive(place):
            pass
        held.check()
        assert holder(place).startswith(f"process {os.getpid()} on")
    assert holder(place) is None
    with pytest.raises(LockLostError, match="lost the lock"):
        held.check()
    with exclusive(place) as again:
        again.check()
        with pytest.raises(LockLostError):
            held.check()


def test_workers_check_by_the_token_whose_driver_may_be_gone(place):
    with exclusive(place) as held:
        sent = pickle.loads(pickle.dumps(held))  # noqa: S301 - our own bytes
        sent.check()
    with pytest.raises(LockLostError, match="lost the lock"):
        sent.check()
    with exclusive(place), pytest.raises(LockLostError, match="lost the lock"):
        sent.check()


@pytest.mark.parametrize("replaced", [True, False])
def test_a_lock_that_is_removed_under_its_holder_is_noticed_and_the_next_writer_can_be_sure(place, replaced):
    with exclusive(place) as first:
        key = LOCK_KEY if place.exists(LOCK_KEY) and not place.exists(LEASE_KEY) else LEASE_KEY
        content = place.read(key)
        place.delete([key])
        if replaced:
            place.write(key, b"another" if key == lease_key(place) else content)
            with pytest.raises(LockLostError, match="lost the lock"):
                first.check()
            place.delete([key])
        with exclusive(place) as second:
            with pytest.raises(LockLostError, match="lost the lock"):
                first.check()
            second.check()
        assert holder(place) is None


def test_a_lease_is_renewed_for_as_long_as_it_is_held(leased):
    began = datetime.now(UTC).replace(microsecond=0)
    with exclusive(leased) as held:
        before = leased.read(lease_key(leased))
        time.sleep(2 * SHORT_S)
        held.check()
        after = json.loads(leased.read(lease_key(leased)))
        assert after["renewals"] >= 2
        assert after["token"] == json.loads(before)["token"]
        assert datetime.fromisoformat(after["until"]) > began
    assert not leased.exists(lease_key(leased))


def test_a_lease_that_ran_out_is_taken_over_without_a_person(leased, caplog):
    written(leased)
    with exclusive(leased) as held:
        held.check()
        assert holder(leased).startswith(f"process {os.getpid()}")
    assert f"locked by process 1 on nowhere; waiting up to {1.25 * SHORT_S:g} s" in caplog.text
    assert "took over the lock" in caplog.text


def test_an_empty_lease_of_a_killed_writer_is_taken_over(leased):
    leased.write(lease_key(leased), b"")
    with exclusive(leased) as held:
        held.check()


def test_a_lease_that_is_renewed_is_left_to_its_holder(leased, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_S", 60.0)
    written(leased)
    renewed = threading.Timer(SHORT_S / 2, written, (leased,), {"renewals": 1})
    renewed.start()
    with pytest.raises(StoreError, match="process 1 on nowhere"), exclusive(leased):
        pass
    renewed.join()
    assert json.loads(leased.read(lease_key(leased)))["renewals"] == 1


def test_of_two_who_wait_for_a_lease_one_gets_it(leased):
    written(leased)
    results = []

    def take():
        try:
            with exclusive(leased) as held:
                held.check()
                time.sleep(2 * SHORT_S)
                held.check()
                results.append("held")
        except StoreError:
            results.append("refused")

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["held", "refused", "refused"]


def test_a_holder_that_stood_still_finds_that_its_lease_was_taken(leased, monkeypatch):
    with exclusive(leased) as first:
        # As after SIGSTOP: no renewals, and no clock of its own that says so.
        monkeypatch.setattr(type(first), "renew", lambda self: super(type(first), self).check())
        first._ended.set()
        first._thread.join()
        written(leased, name="process 2 on another")
        with pytest.raises(LockLostError, match="process 2 on another has it"):
            first.check()
    assert json.loads(leased.read(lease_key(leased)))["name"] == "process 2 on another"


def test_a_holder_that_could_not_renew_goes_on_only_if_nobody_can_have_taken_over(leased):
    with exclusive(leased) as held:
        held._ended.set()
        held._thread.join()
        time.sleep(1.5 * SHORT_S)
        if lease_key(leased) == LEASE_KEY:
            # A folder cannot write on the condition that nobody has meanwhile.
            with pytest.raises(LockLostError, match="could not be renewed"):
                held.check()
        else:
            held.check()
            assert held.in_time


def test_a_storage_that_refuses_to_replace_on_a_condition_is_written_without(leased, monkeypatch):
    def refuses(*_arguments, **_options):
        raise LocationError("not implemented")

    with exclusive(leased) as held:
        monkeypatch.setattr(type(leased), "replace", refuses)
        time.sleep(2 * SHORT_S)
        held.check()
        assert held.in_time


def test_a_lost_answer_to_the_request_for_the_lock_does_not_count_as_another_writer(tmp_path, monkeypatch):
    place = locate(f"memory://{tmp_path.name}")
    real = type(place).create

    def twice(self, key, data):
        real(self, key, data)
        real(self, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(type(place), "create", twice)
        with exclusive(place) as held:
            held.check()
    assert not place.exists(LOCK_KEY)


def test_a_lock_of_an_older_release_is_left_to_people(tmp_path):
    place = locate(f"memory://{tmp_path.name}")
    place.write(LOCK_KEY, b"process 1 on nowhere")
    with pytest.raises(StoreError, match="process 1 on nowhere") as caught, exclusive(place):
        pass
    assert "python -m store unlock" in caught.value.hint
    assert unlock(place) == "process 1 on nowhere"
    assert unlock(place) is None
    with exclusive(place):
        pass


def test_a_folder_without_locks_says_that_it_has_a_lease(tmp_path, no_flock, caplog):
    place = locate(tmp_path)
    with exclusive(place):
        assert place.exists(LEASE_KEY)
    assert "this file system has no locks (flock); a lease is kept instead" in caplog.text
    assert [key for key, _ in place.list()] == [LOCK_KEY]


def test_a_machine_with_locks_heeds_the_lease_of_one_without(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_S", SHORT_S)
    place = locate(tmp_path)
    written(place)
    assert holder(place) == "process 1 on nowhere"
    with exclusive(place) as held:
        held.check()
        assert not place.exists(LEASE_KEY)


def test_a_driver_that_is_killed_leaves_a_lease_that_its_successor_waits_out(tmp_path):
    script = """
import errno, fcntl, os, signal, sys
from store.io import lease
from store.io.location import locate
from store.io.lock import exclusive
def refuses(*_):
    raise OSError(errno.EOPNOTSUPP, "not supported")
fcntl.flock = refuses
lease.LEASE_S, lease.RENEW_S, lease.LOOK_S = 1.0, 0.2, 0.05
with exclusive(locate(sys.argv[1])) as held:
    held.check()
    if sys.argv[2:]:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    assert subprocess.run([*command, "killed"], check=False).returncode == -9
    assert (tmp_path / LEASE_KEY).exists()
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "took over the lock" in again.stderr
    assert not (tmp_path / LEASE_KEY).exists()


def test_a_storage_without_conditional_writes_is_found_out_and_said(s3, caplog):
    with exclusive(locate("s3://bucket/unlocked")) as held:
        held.check()
        held.renew()
        held.check()
    assert "this storage has no conditional writes" in caplog.text
