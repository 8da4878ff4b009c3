"""The contract of append and index: a kill at any step leaves the old table, the new one or none, and the same command
ends at the same objects as without a kill; of two at once the second goes on from what the first has left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from store import faults
from store.corpus.section import Corpus
from store.errors import LockLostError, StoreNotFoundError
from store.format.records import read_store_info
from store.index.append import append_corpus
from store.index.create import index_corpus
from store.index.curation_report import read_report
from store.io.location import locate
from store.io.lock import unlock
from store.read.reader import FeatureStore
from tests.store import damage
from tests.store.conftest import members_of
from tests.store.dying import Dying, Killed

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).parents[3]
STEPS = ("write.temporary", "write.replaced", "delete.done")
OLD, NEW = [f"p{n:02d}" for n in range(10)], [f"p{n:02d}" for n in range(17)]
SHAPE = {"range_rows": 4, "chunk_rows": 2}


def do(action, store, files):
    """Append or index, in parts of one range."""
    if action == "append":
        append_corpus(store, Corpus(files=[files]), part_rows=4)
    else:
        index_corpus(store, Corpus(files=[files]), **SHAPE)


@pytest.fixture
def begin(units, write_tar):
    """Bring a store to where an action begins: seven pairs more, and for an index no store.json."""

    def prepare(action, target=None):
        write_tar("corpus/002.tar", [member for number in range(10, 17) for member in members_of(number)])
        location = damage.copy(units.location, target) if target else units.location
        if action == "index":
            units.register()
            units.commit(0)
            location.delete(["store.json"])
            location.write("pairs/part-00003.parquet", b"of a former store")
        return location, str(units.path.parent / "corpus/*.tar")

    return prepare


def keys_seen(location):
    """Return the keys that a reader sees, by reading and by looking each up; None where there is no store."""
    try:
        store = FeatureStore(location)
    except StoreNotFoundError:
        return None
    keys = store.pairs.read(0, store.info.rows, ["key"])["key"].to_pylist()
    assert [store.pairs.row_of(key) for key in keys] == list(range(len(keys)))
    report = read_report(location, store.info)
    assert (report.rows, report.files) == (len(keys), len(store.info.corpus["files"]))
    return keys


def kill_at_every_step(action, prepared, out, files):
    """Do it in a copy of a store per step, each in a fork that is killed there; runs in a process of its own."""
    for step in STEPS:
        for number in range(1, 100):
            copy = shutil.copytree(prepared, Path(out) / f"{step}:{number}")
            child = os.fork()
            if not child:
                os.environ[faults.KILL_AT] = f"{step}:{number}"
                do(action, copy, files)
                os._exit(0)
            if os.WIFEXITED(os.waitpid(child, 0)[1]):
                copy.rename(Path(out) / "unharmed")
                shutil.rmtree(Path(out) / "whole", ignore_errors=True)
                (Path(out) / "unharmed").rename(Path(out) / "whole")
                break


@pytest.mark.parametrize("action", ["append", "index"])
def test_after_a_kill_in_a_folder_the_table_is_whole_and_the_same_command_ends_as_without_it(begin, tmp_path, action):
    location, files = begin(action)
    (out := tmp_path / "out").mkdir()
    code = "import sys; from tests.store.index.test_growth_contract import *; kill_at_every_step(*sys.argv[1:])"
    command = [sys.executable, "-c", code, action, str(location.path), str(out), files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole = damage.contents(locate(out / "whole"))
    killed = [path for path in out.iterdir() if path.name != "whole"]
    assert len(killed) > 12
    for path in killed:
        assert keys_seen(locate(path)) in ((OLD, NEW) if action == "append" else (None, NEW)), path
        do(action, path, files)
        assert keys_seen(locate(path)) == NEW, path
        assert not [key for key, _ in locate(path).list("index")]
        assert damage.contents(locate(path)) == whole, path


@pytest.mark.parametrize("action", ["append", "index"])
def test_after_a_kill_on_object_storage_the_table_is_whole_and_the_same_command_ends_as_without_it(
    begin, tmp_path, action
):
    prepared, files = begin(action, locate(f"memory://growth/{tmp_path.name}/{action}"))
    ended, requests, whole = False, 0, None
    while not ended:
        url = f"{prepared.uri}-{requests}"
        location = damage.copy(prepared, locate(url))
        try:
            do(action, Dying(url, after=requests), files)
            ended, whole = True, damage.contents(location)
        except Killed:
            pass
        assert keys_seen(location) in ((OLD, NEW) if action == "append" else (None, NEW)), requests
        unlock(location)
        do(action, location, files)
        assert keys_seen(location) == NEW, requests
        requests += 1
    assert requests > 5
    for number in range(requests):
        assert damage.contents(locate(f"{prepared.uri}-{number}")) == whole, number


def test_features_of_a_store_that_was_here_stay_and_its_parts_are_replaced(begin, caplog):
    location, files = begin("index")
    before = {
        key: location.read(key) for key, _ in location.list() if key.startswith(("features", "receipts", "specs"))
    }
    do("index", location, files)
    assert before
    assert {key: location.read(key) for key in before} == before
    assert "pairs of a store that was here" in caplog.text
    assert [key for key, _ in location.list("pairs")] == ["pairs/part-00000.parquet"]


@pytest.mark.parametrize("action", ["append", "index"])
def test_of_two_at_once_the_second_goes_on_from_what_the_first_has_left(begin, write_tar, action):
    location, files = begin(action)
    code = f"from tests.store.index.test_growth_contract import *; do({action!r}, {str(location.path)!r}, {files!r})"
    waiting = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, faults.STOP_AT: "index.planned"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, status = os.waitpid(waiting.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), waiting.stderr.read()
        do(action, location, files)
        first, last = dict(damage.contents(location)), NEW
        if action == "append":
            # What the second still finds new follows the rows of the first.
            write_tar("corpus/003.tar", [member for number in (20, 21) for member in members_of(number)])
            last = [*NEW, "p20", "p21"]
        waiting.send_signal(signal.SIGCONT)
        assert waiting.wait(timeout=100) == 0, waiting.stderr.read()
    finally:
        waiting.kill()
    assert keys_seen(location) == last
    kept = {key for key in first if key.startswith("pairs/")} | ({*first} if action == "index" else set())
    assert {key: location.read(key) for key in kept} == {key: first[key] for key in kept}
    assert read_store_info(location).rows == len(last)


@pytest.mark.parametrize("action", ["append", "index"])
def test_who_lost_the_lock_writes_no_part_over_those_of_who_has_it_now(begin, monkeypatch, action):
    location, files = begin(action)
    module = sys.modules[f"store.index.{'append' if action == 'append' else 'create'}"]
    taken_over, write_rows = {}, module.write_rows

    def lose_the_lock(*arguments):
        location.delete(["writer.lock"])
        location.write("pairs/part-00001.parquet", b"of who has the lock now")
        taken_over.update(damage.contents(location))
        return write_rows(*arguments)

    monkeypatch.setattr(module, "write_rows", lose_the_lock)
    with pytest.raises(LockLostError):
        do(action, location, files)
    assert damage.contents(location) == taken_over
