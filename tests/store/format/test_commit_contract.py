"""The contract of a commit: a kill at any step leaves readers the old unit, the new unit or nothing, never a mixture.

In a folder a process of its own does each commit once per step of `store.faults` that the commit reaches, each time in
a fork that kills itself there. On object storage the commit ends before each of its requests that change something.
Afterwards the same commands are run again, and have to end at the new unit.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from store import faults
from store.check.quarantine import find_retries, mark, marked
from store.check.verify import verify
from store.format.arrays import shard_key
from store.format.commit import UnitFeatures, register_teacher
from store.format.promote import recover, replace_units, unguarded
from store.format.records import Status, read_store_info, receipt_key, spec_key
from store.io.location import locate
from store.read.chunks import ChunkReader
from store.read.reader import FeatureStore
from tests.store import damage
from tests.store.conftest import Units
from tests.store.dying import Dying, Killed

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).parents[3]
LAST = 2
"""The last range, which may grow."""

OLD, NEW = 0, 1
"""Seeds of the features, so that image, text and similarity of two attempts differ."""

ALLOWED = {
    "first commit": {"nothing", "new"},
    "first commit over leftovers": {"nothing", "new"},
    "retry": {"old", "new"},
    "outdated pairs": {"nothing", "new"},  # features of other pairs are no features of these
    "grown range": {"old", "new"},
    "another spec": {"old", "new"},
}
"""The outcomes that a reader may see after a kill, by the store's content before the commit."""


def ranges_of(situation):
    return range(LAST + 1) if situation == "another spec" else [LAST]


def features(units, range_id, seed, *, rows=None, width=6):
    """Features of a range, with one row that is not ok."""
    start, stop = units.info.bounds(range_id)
    rows = stop - start if rows is None else rows
    drawn = np.random.default_rng([seed, range_id]).normal(size=(2, rows, width))
    image, text = (drawn / np.linalg.norm(drawn, axis=2, keepdims=True)).astype(np.float32)
    status = np.full(rows, Status.OK, np.uint8)
    status[seed] = Status.KILLER_ROW
    return UnitFeatures(image=image, text=text, status=status, reasons={})


def new_spec(units, situation):
    return units.spec(embed_dim=7) if situation == "another spec" else units.spec()


def prepare(units, situation):
    """Bring a store to where a commit has to be done."""
    units.register()
    if situation == "first commit":
        return
    for range_id in ranges_of(situation):
        units.commit(range_id, features=features(units, range_id, OLD))
    if situation == "first commit over leftovers":
        units.location.delete([receipt_key("alpha", LAST), shard_key("alpha", "text", LAST)])
    elif situation == "retry":
        mark(units.location, find_retries(FeatureStore(units.location), statuses=[Status.KILLER_ROW]))
    elif situation == "outdated pairs":
        damage.edit_pairs(units.location, at=8, caption="another finding")
    elif situation == "grown range":
        damage.append_pairs(units.location, 2)


def commit_new(location, situation):
    """Do what an extraction does: finish what was begun, register the teacher, commit the units."""
    recover(location, guard=unguarded)
    store = Units(location, read_store_info(location))
    spec = new_spec(store, situation)
    at = register_teacher(location, spec, info=store.info, replace=True)
    units = Units(location.below(at), store.info, pairs=store.pairs)
    for range_id in ranges_of(situation):
        new = features(units, range_id, NEW, width=spec.embed_dim)
        units.commit(range_id, features=new, spec=spec, run_id="second")
    if at:
        replace_units(location, at, spec_key("alpha"), guard=unguarded)


def kill_at_every_step(prepared, out, situation, *steps):
    """Commit in a copy of a store per step, each in a fork that is killed there; runs in a process of its own."""
    for step in steps:
        shutil.copytree(prepared, Path(out) / step)
        child = os.fork()
        if not child:
            os.environ[faults.KILL_AT] = step
            commit_new(locate(Path(out) / step), situation)
            os._exit(0)
        ended = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(ended), (step, ended)
        assert os.WTERMSIG(ended) == signal.SIGKILL, (step, ended)


def steps_reached(location, situation, monkeypatch):
    """Return every step that a commit reaches, with its number."""
    faults._reached.clear()
    with monkeypatch.context() as patch:
        patch.setenv(faults.KILL_AT, "no step")
        commit_new(location, situation)
    return [f"{step}:{number + 1}" for step, count in faults._reached.items() for number in range(count)]


def holds(store, range_id, expected):
    """Return whether readers get exactly some features in the rows that are committed of a range."""
    receipt = store.receipts("alpha")[range_id]
    start, stop = receipt.start, receipt.stop
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


def seen(location, situation):
    """Return what a reader sees of the ranges: ``nothing``, ``old``, ``new``, or ``a mixture``."""
    units, store = Units(location, read_store_info(location)), FeatureStore(location)
    there = [range_id for range_id in ranges_of(situation) if range_id in store.receipts("alpha")]
    if not there:
        return "nothing"
    width, rows = new_spec(units, situation).embed_dim, 2 if situation == "grown range" else None
    outcomes = {
        "new": [features(units, range_id, NEW, width=width) for range_id in ranges_of(situation)],
        "old": [features(units, range_id, OLD, rows=rows) for range_id in ranges_of(situation)],
    }
    for name, expected in outcomes.items():
        if len(there) == len(expected) and all(map(holds, [store] * len(there), there, expected)):
            return name
    return "a mixture"


def check_contract(location, situation, step):
    """Check what a kill left, and what the same command makes of it."""
    assert seen(location, situation) in ALLOWED[situation], step
    commit_new(location, situation)
    assert seen(location, situation) == "new", step
    assert verify(location, deep=True).valid, step
    assert marked(location) == set(), step
    assert not [key for key, _ in location.list() if key.startswith(("staged/", "next/"))], step


@pytest.mark.parametrize("situation", ALLOWED)
def test_after_a_kill_a_reader_sees_one_unit_or_nothing_and_the_same_command_ends_at_the_new_one(
    units, tmp_path, monkeypatch, situation
):
    prepare(units, situation)
    assert (seen(units.location, situation) == "old") == ("old" in ALLOWED[situation])
    whole = damage.copy(units.location, locate(tmp_path / "whole"))
    steps = steps_reached(whole, situation, monkeypatch)
    assert len(steps) > 10
    code = "import sys; from tests.store.format.test_commit_contract import *; kill_at_every_step(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(units.path), str(tmp_path / "killed"), situation, *steps]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for step in steps:
        check_contract(locate(tmp_path / "killed" / step), situation, step)


@pytest.mark.parametrize("situation", ALLOWED)
def test_the_contract_holds_on_object_storage(units, tmp_path, situation):
    place = f"memory://contract/{tmp_path.name}"
    remote = Units(damage.copy(units.location, locate(f"{place}/prepared")), units.info)
    prepare(remote, situation)
    for requests in range(1000):
        location = damage.copy(remote.location, locate(f"{place}/{requests}"))
        try:
            commit_new(Dying(location.uri, after=requests), situation)
            break
        except Killed:
            check_contract(location, situation, requests)
    assert requests >= 5
    assert seen(location, situation) == "new"
