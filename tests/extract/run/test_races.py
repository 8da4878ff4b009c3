"""Two programs at one store: whichever comes second plans from what the first has left.

The second is stopped before it asks for the lock, the first runs to its end, then the second goes on.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from extract.cli.program import app as extract_app
from extract.corpora.phantom.corpus import PhantomSettings, write_corpus
from store.check.verify import verify
from store.cli.program import app as store_app
from store.faults import STOP_AT
from store.format.records import read_store_info
from store.io.location import locate

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).parents[3]
PROGRAMS = {"extract": extract_app, "store": store_app}
ACTIONS = ("run", "append", "index", "repair", "retry")
PAIRS = [(first, second) for first in ACTIONS for second in ACTIONS]


def command(action, config):
    store = config.parent / "store"
    pipeline = ["--pipeline", "tiny", "--config", config]
    return {
        "run": ["extract", "run", "--local", *pipeline],
        "append": ["extract", "append", *pipeline],
        "index": ["extract", "index", *pipeline],
        "repair": ["store", "repair", store, "--yes"],
        "retry": ["extract", "retry", store, "--status", "all"],
    }[action]


def start_and_stop(arguments):
    """Start a program that stops before it asks for the lock."""
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", STOP_AT: "lock.wanted"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def to_its_end(arguments):
    """Run a program in this process; returns its exit code and the error that ended it."""
    done = CliRunner().invoke(PROGRAMS[arguments[0]], list(map(str, arguments[1:])))
    return done.exit_code, str(done.exception)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, teachers, write_pipeline):
    """A store of two tars, extracted but for one range, damaged in another; and a third tar."""
    folder = tmp_path_factory.mktemp("races")
    write_corpus(folder / "corpus", PhantomSettings(rows=60, seed=5, shard_rows=20))
    tars = sorted((folder / "corpus").glob("*.tar"))
    late = tars[-1].rename(folder / "late.tar")
    config = write_pipeline(folder, files=["corpus/*.tar"], teachers=teachers)
    for action in ("index", "run"):
        code, said = to_its_end(command(action, config))
        assert code == 0, said
    store = locate(folder / "store")
    store.delete(["receipts/small/r000001.json"])
    store.write("features.zarr/wide/image/c/0/0", store.read("features.zarr/wide/image/c/0/0")[:-3])
    late.rename(tars[-1])
    return folder


def complete(config, stored_digests):
    """Do everything that is left, and return what is stored."""
    for action in ("index", "append", "repair", "run"):
        to_its_end(command(action, config))
    store = config.parent / "store"
    assert verify(locate(store), deep=True).complete
    assert read_store_info(locate(store)).rows == 60
    return stored_digests(store)


@pytest.fixture(scope="module")
def in_turn(prepared, tmp_path_factory, stored_digests):
    """The features of a store whose programs ran one after the other."""
    folder = tmp_path_factory.mktemp("in_turn") / "copy"
    shutil.copytree(prepared, folder)
    return complete(folder / "pipelines.yaml", stored_digests)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_second_of_two_programs_goes_on_from_what_the_first_left(
    prepared, in_turn, tmp_path, stored_digests, first, second
):
    shutil.copytree(prepared, tmp_path / "copy")
    config = tmp_path / "copy" / "pipelines.yaml"
    if "index" in (first, second):
        (tmp_path / "copy/store/store.json").unlink()  # it is indexed anew
    waiting = start_and_stop(command(second, config))
    try:
        _, status = os.waitpid(waiting.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):  # without a store there is nothing to lock
            waiting.returncode = os.waitstatus_to_exitcode(status)
            assert "store" in waiting.stdout.read()
        code, said = to_its_end(command(first, config))
        assert code == 0 or "no feature store is there" in said, said
        if os.WIFSTOPPED(status):
            waiting.send_signal(signal.SIGCONT)
            said, _ = waiting.communicate(timeout=200)
            assert "Traceback" not in said
            assert waiting.returncode == 0 or "hint" in said.lower(), said
    finally:
        if waiting.returncode is None:
            waiting.kill()
    assert complete(config, stored_digests) == in_turn
