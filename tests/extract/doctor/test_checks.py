"""Every check of ``extract doctor`` by itself: what is right, and what is wrong, made so where it can be made so."""

from __future__ import annotations

import fcntl
import json
import shutil
import socket
import threading
import time

import pytest

from extract.doctor import cluster, machine, place, sources
from extract.doctor.finding import within
from extract.teacher_files.entry import TeacherEntry
from store.errors import ConfigError
from store.io import remote
from store.io.folder import Folder
from store.io.location import locate
from store.read.mapped import MAPS
from tests.extract.hub import NOBODY, Fault, serving
from tests.s3_server import S3Server, rclone


def test_python_has_to_be_new_enough():
    assert machine.python((3, 11, 0)).state == "ok"
    assert machine.python((3, 10, 14)).state == "fail"


def torch_of(cuda=(12, 6), driver=(12, 8), devices=None):
    return machine.Torch(
        version="2", cuda=cuda, driver=driver, devices={"cuda:0": 8 << 30} if devices is None else devices
    )


@pytest.mark.parametrize(
    ("found", "state", "said"),
    [
        (torch_of(), "ok", "visible cards: 1"),
        (torch_of(driver=(12, 2)), "ok", "CUDA 12.6"),
        (torch_of(cuda=None), "fail", "without CUDA"),
        (torch_of(driver=None), "fail", "no driver"),
        (torch_of(driver=(11, 8)), "fail", "supports CUDA 11.8 at most"),
        (torch_of(devices={}), "fail", "no card is visible"),
    ],
)
def test_torch_and_the_driver_have_to_fit(found, state, said):
    judged = machine.torch_and_driver(found, device="cuda", elsewhere=False)
    assert (judged.state, said in judged.said, bool(judged.next)) == (state, True, state != "ok")
    elsewhere = machine.torch_and_driver(found, device="cuda", elsewhere=True)
    assert elsewhere.state == ("ok" if state == "ok" else "warn")


def test_cards_that_are_not_used_are_a_warning():
    assert machine.torch_and_driver(torch_of(), device="cpu", elsewhere=False).state == "warn"
    assert machine.torch_and_driver(torch_of(devices={}), device="cpu", elsewhere=False).state == "ok"


@pytest.mark.parametrize(
    ("need", "workers", "state"),
    [
        (machine.Need(nbytes=60, measured=True), 1, "ok"),
        (machine.Need(nbytes=60, measured=True), 2, "fail"),
        (machine.Need(nbytes=60, measured=False), 1, "warn"),
        (machine.Need(nbytes=40, measured=False), 1, "ok"),
        (machine.Need(nbytes=40, measured=False, missing=("wide",)), 1, "warn"),
        (machine.Need(nbytes=0, measured=False), 1, "warn"),
    ],
)
def test_the_smallest_device_has_to_hold_all_teachers(need, workers, state):
    judged = machine.memory(need, {"a": 200, "b": 100}, workers=workers, elsewhere=False, measure="measure it")
    assert judged.state == state
    assert "b has" in judged.said or not need.nbytes


def test_shared_memory_and_maps():
    assert [machine.shared_memory(free, needed=100).state for free in (None, 100, 99)] == ["ok", "ok", "warn"]
    assert [machine.maps(limit).state for limit in (None, 2 * MAPS + 1, 2 * MAPS)] == ["ok", "ok", "warn"]


def test_a_limit_of_files_that_can_be_raised_is_raised_by_the_next_command():
    assert machine.open_files(512, 800).next == "ulimit -n 800"
    assert machine.open_files(512, -1).next == "ulimit -n 1024"
    assert machine.open_files(-1, -1).state == "ok"


def test_room_is_that_of_the_disk(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    assert place.room(tmp_path, free=free, nbytes=1).state == "ok"
    assert place.room(tmp_path, free=free, nbytes=free + 1).state == "fail"
    assert [place.room(tmp_path, free=free, nbytes=None).state for free in (0, 1)] == ["fail", "ok"]
    assert [place.inodes(tmp_path, free=9, objects=objects).state for objects in (None, 9, 10)] == ["ok", "ok", "fail"]
    assert [place.inodes(tmp_path, free=free, objects=None).state for free in (None, 0)] == ["ok", "fail"]


def test_a_lock_is_taken_beside_the_store_and_nothing_stays(tmp_path):
    judged = place.locks(Folder(tmp_path / "not/there/yet"))
    assert judged.state == "ok"
    assert str(tmp_path) in judged.said
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch):
    def refuses(*_arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuses)
    assert place.locks(Folder(tmp_path)).state == "warn"
    assert list(tmp_path.iterdir()) == []


def test_a_storage_with_conditional_writes_is_right(tmp_path):
    store = locate(f"memory://{tmp_path.name}")
    assert place.conditions(store).state == "ok"
    assert store.list() == []


@pytest.mark.skipif(rclone() is None, reason="rclone, the S3 server of this test, is not installed")
def test_a_storage_without_conditional_writes_is_a_warning_and_one_that_is_gone_a_failure(tmp_path, monkeypatch):
    server = S3Server(tmp_path / "s3").start()
    try:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        judged = place.conditions(locate("s3://bucket/store"))
        assert judged.state == "warn"
        assert "no conditional writes" in judged.said
        assert [path for path in server.folder.rglob("*") if path.is_file()] == []
    finally:
        server.close()
    monkeypatch.setattr(place, "ANSWER_S", 0.5)
    began = time.monotonic()
    gone = place.conditions(locate("s3://bucket/store"))
    assert (gone.state, "no answer within 0.5 s" in gone.said) == ("fail", True)
    assert time.monotonic() - began < remote.RETRY_S / 2
    remote._client.cache_clear()


@pytest.fixture
def entries(tmp_path):
    """A teacher of the hub, whose folder is empty."""
    content = {
        "folder": str(tmp_path),
        "download": [{"repo": "somebody/one", "files": ["open_clip_model.safetensors"]}],
    }
    return {"one": TeacherEntry.model_validate_json(json.dumps(content))}


def test_a_hub_that_fails_matters_if_files_are_missing(entries):
    with serving() as hub:
        assert sources.hub(hub.url, offline=False, entries=entries, missing=["one"]).state == "ok"
        hub.faults[""] = Fault(status=503)
        failing = sources.hub(hub.url, offline=False, entries=entries, missing=["one"])
        whole = sources.hub(hub.url, offline=False, entries=entries, missing=[])
    assert (failing.state, whole.state) == ("fail", "ok")
    assert "status 503" in failing.said
    assert sources.hub(f"http://{NOBODY}", offline=False, entries=entries, missing=["one"]).state == "fail"
    assert sources.hub("http://nowhere.invalid", offline=True, entries=entries, missing=[]).state == "ok"
    assert sources.hub("http://nowhere.invalid", offline=True, entries=entries, missing=["one"]).state == "fail"


def test_weights_that_are_missing_name_the_command_that_fetches_them(entries):
    judged, nbytes = sources.weights("one", entries["one"], next_="fetch them")
    assert (judged.state, judged.next, nbytes) == ("fail", "fetch them", None)


def test_a_corpus_that_the_pipeline_lacks():
    assert sources.corpus(None, None).state == "warn"
    assert sources.corpus("pairs", None).state == "fail"


@pytest.mark.parametrize(
    ("chosen", "has_token", "state"),
    [
        ("disabled", False, "ok"),
        ("token", True, "ok"),
        (None, False, "warn"),
        ("token", False, "fail"),
        ("x", True, "fail"),
    ],
)
def test_rays_mode_is_stated_and_has_what_it_needs(chosen, has_token, state):
    judged = cluster.mode("2.48", chosen, has_token=has_token)
    assert (judged.state, bool(judged.next)) == (state, state != "ok")


def test_a_cluster_has_to_take_connections():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert cluster.cluster(f"127.0.0.1:{server.getsockname()[1]}").state == "ok"
    assert cluster.cluster(NOBODY).state == "fail"
    assert cluster.cluster("ray://127.0.0.1:10001").state == "fail"
    assert cluster.cluster(None).state == "ok"


def test_ports_that_are_taken_are_a_warning_where_a_cluster_would_be_started():
    with socket.create_server(("", 0)) as server:
        assert cluster.is_taken(server.getsockname()[1])
    assert not cluster.is_taken(0)  # the system chooses one that is free
    taken = dict.fromkeys(cluster.PORTS, True)
    assert cluster.ports(taken, address=None).state == "warn"
    assert "--dashboard-port N" in cluster.ports(taken, address=None).next
    assert cluster.ports(taken, address="127.0.0.1:6379").state == "ok"
    assert cluster.ports(dict.fromkeys(cluster.PORTS, False), address=None).state == "ok"


def test_work_that_takes_too_long_is_left_and_errors_come_through():
    with pytest.raises(TimeoutError, match="no answer within"):
        within(0.05, threading.Event().wait)
    with pytest.raises(ConfigError, match="wrong"):
        within(5, lambda: (_ for _ in ()).throw(ConfigError("wrong")))
    assert within(5, lambda: 3) == 3
