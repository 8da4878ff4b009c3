"""The contract of a commit: a kill at any step leaves readers the old unit, the new unit or nothing, never a mixture.

A process of its own does each commit once per step of `store.faults` that the commit reaches, each time in a fork that
kills itself there. Afterwards the same commands are run again, and have to end at the new unit.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from store import faults
from store.check.quarantine import find_retries, mark, marked
from store.check.verify import verify
from store.format.commit import UnitFeatures, register_teacher
from store.format.records import Status, read_store_info
from store.io.location import locate
from store.read.chunks import ChunkReader
from store.read.reader import FeatureStore
from tests.store import damage
from tests.store.conftest import Units

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).parents[3]
RANGE = 2
"""The last range, which may grow."""

OLD, NEW = 0, 1
"""Seeds of the features, so that image, text and similarity of two attempts differ."""

ALLOWED = {
    "first commit": {"nothing", "new"},
    # Today the outdated receipt is deleted before anything is written: a kill in between takes the old rows away.
    "retry": {"old", "nothing", "new"},
    "outdated pairs": {"old", "nothing", "new"},
    "outdated spec": {"old", "nothing", "new"},
    "grown range": {"old", "nothing", "new"},
}
"""The outcomes that a reader may see after a kill, by the store's content before the commit."""

UNIT = {"commit.begin": 1, "commit.object": 4, "commit.objects": 1, "commit.done": 1}
WRITES = {"first commit": 5, "retry": 5, "outdated pairs": 5, "outdated spec": 11, "grown range": 9}
"""Four shards and the receipt; metadata of the arrays that grow, or of all and the group, and the spec."""

DELETES = {"retry": 2, "outdated pairs": 1, "outdated spec": 11, "grown range": 1}
"""The receipt; the retry mark; with another spec also the spec, five metadata and four shards."""

CASES = [
    (situation, f"{step}:{number}")
    for situation in ALLOWED
    for step, count in {
        **UNIT,
        "write.temporary": WRITES[situation],
        "write.replaced": WRITES[situation],
        "delete.done": DELETES.get(situation, 0),
    }.items()
    for number in range(1, count + 1)
]


def features(units, seed, *, rows=None, width=6):
    """Features of the last range, with one row that is not ok."""
    start, stop = units.info.bounds(RANGE)
    rows = stop - start if rows is None else rows
    drawn = np.random.default_rng(seed).normal(size=(2, rows, width))
    image, text = (drawn / np.linalg.norm(drawn, axis=2, keepdims=True)).astype(np.float32)
    status = np.full(rows, Status.OK, np.uint8)
    status[seed] = Status.KILLER_ROW
    return UnitFeatures(image=image, text=text, status=status, reasons={})


def new_spec(units, situation):
    return units.spec(embed_dim=7) if situation == "outdated spec" else units.spec()


def prepare(units, situation):
    """Bring a store to where a commit of the last range has to be done."""
    units.register()
    if situation == "first commit":
        return
    units.commit(RANGE, features=features(units, OLD))
    if situation == "retry":
        mark(units.location, find_retries(FeatureStore(units.path), statuses=[Status.KILLER_ROW]))
    elif situation == "outdated pairs":
        damage.edit_pairs(units.location, at=8, caption="another finding")
    elif situation == "grown range":
        damage.append_pairs(units.location, 2)


def commit_new(path, situation):
    """Do what an extraction does: register the teacher, commit the unit."""
    units = Units(Path(path), read_store_info(locate(path)))
    spec = new_spec(units, situation)
    register_teacher(units.location, spec, info=units.info, replace=True)
    units.commit(RANGE, features=features(units, NEW, width=spec.embed_dim), spec=spec, run_id="second")


def kill_at_every_step(prepared, out, situation):
    """Commit in a copy of a store per step, each in a fork that is killed there; runs in a process of its own."""
    for step in [case_step for case_situation, case_step in CASES if case_situation == situation]:
        shutil.copytree(prepared, Path(out) / step)
        child = os.fork()
        if not child:
            os.environ[faults.KILL_AT] = step
            commit_new(Path(out) / step, situation)
            os._exit(0)
        ended = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(ended), (step, ended)
        assert os.WTERMSIG(ended) == signal.SIGKILL, (step, ended)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Return a function that gives the store before a situation's commit, and those after a kill, by step."""
    made = {}

    def get(situation, units):
        if situation not in made:
            out = tmp_path_factory.mktemp("killed")
            prepare(units, situation)
            code = (
                "import sys; from tests.store.format.test_commit_contract import *; kill_at_every_step(*sys.argv[1:])"
            )
            command = [sys.executable, "-c", code, str(units.path), str(out), situation]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            made[situation] = out
        return made[situation]

    return get


def holds(store, expected):
    """Whether readers get exactly some features in the rows that are committed of the last range."""
    start, stop = store.receipts("alpha")[RANGE].start, store.receipts("alpha")[RANGE].stop
    ok = expected.status == Status.OK
    if len(ok) != stop - start or store.status("alpha")[start:stop].tolist() != expected.status.tolist():
        return False
    similarity = np.where(ok, (expected.image * expected.text).sum(axis=1), 0)
    if not np.allclose(store.similarity("alpha")[start:stop], similarity, atol=1e-6):
        return False
    wanted = {"image": expected.image, "text": expected.text}
    for side, values in wanted.items():
        rounded = np.where(ok[:, None], values, 0).astype(np.float16)
        found = ChunkReader(store).read(np.arange(start, stop), teacher="alpha", side=side)
        if found.shape != rounded.shape or not np.array_equal(found, rounded):
            return False
    return True


def seen(path, situation):
    """Return what a reader sees of the last range: ``nothing``, ``old``, ``new``, or ``a mixture``."""
    units = Units(path, read_store_info(locate(path)))
    store = FeatureStore(path)
    if "alpha" not in store.teachers or RANGE not in store.receipts("alpha"):
        return "nothing"
    if holds(store, features(units, NEW, width=new_spec(units, situation).embed_dim)):
        return "new"
    return "old" if holds(store, features(units, OLD, rows=2)) else "a mixture"


@pytest.mark.parametrize(("situation", "step"), CASES)
def test_after_a_kill_a_reader_sees_one_unit_or_nothing_and_the_same_command_ends_at_the_new_one(
    units, killed, situation, step
):
    path = killed(situation, units) / step
    assert seen(path, situation) in ALLOWED[situation]
    commit_new(path, situation)
    assert seen(path, situation) == "new"
    assert verify(locate(path), deep=True).valid
    assert marked(locate(path)) == set()


@pytest.mark.parametrize("situation", ALLOWED)
def test_the_steps_of_the_contract_are_all_that_a_commit_reaches(units, monkeypatch, situation):
    reached = Counter()
    for module in ("store.format.commit", "store.files", "store.io.folder"):
        monkeypatch.setattr(f"{module}.reached", lambda step: reached.update([step]))
    prepare(units, situation)
    assert (seen(units.path, situation) == "old") == (situation != "first commit")
    reached.clear()
    commit_new(units.path, situation)
    assert {(situation, f"{step}:{n + 1}") for step, count in reached.items() for n in range(count)} == {
        case for case in CASES if case[0] == situation
    }


def test_every_step_that_the_store_names_is_in_the_contract():
    named = {
        step for path in (ROOT / "store").rglob("*.py") for step in re.findall(r'reached\("(.+?)"\)', path.read_text())
    }
    assert named == {step.partition(":")[0] for _, step in CASES}
