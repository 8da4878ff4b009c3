"""``python -m store upgrade`` makes of a store of format 1 the one that today's programs write, killed or not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from store import faults
from store.check.repair import repair
from store.check.upgrade import upgrade
from store.check.verify import verify
from store.cli.program import app
from store.corpus.section import Corpus
from store.errors import FormatVersionError, LockLostError, StoreError
from store.format.arrays import decode_index, index_bytes, shard_key
from store.format.commit import register_teacher
from store.format.records import REPORT_KEY, STORE_KEY, read_store_info, receipt_key, require_present_format
from store.index.append import append_corpus
from store.index.curation_report import REPORT_KEY_1, read_report, render
from store.io.location import locate
from store.read.reader import FeatureStore
from tests.store import damage
from tests.store.dying import Dying, Killed
from tests.store.make_fixture import FIXTURE, FIXTURE_1, spec

NOW = FIXTURE / "store"


@pytest.fixture
def old(tmp_path):
    """A copy of the store of format 1."""
    shutil.copytree(FIXTURE_1 / "store", tmp_path / "old")
    return locate(tmp_path / "old")


def features(location):
    """Everything that a reader gets of a store."""
    store = FeatureStore(location)
    assert store.teachers == ["alpha", "beta"]
    return [
        values.tolist()
        for teacher in store.teachers
        for values in (
            store.read(slice(0, 20), teacher=teacher, side="image"),
            store.read(slice(0, 20), teacher=teacher, side="text"),
            store.similarity(teacher),
            store.status(teacher),
        )
    ]


def is_the_present_store(location):
    """Compare a store with the fixture of the present format: all bytes but those that pyarrow decides."""
    found, expected = damage.contents(location), damage.contents(locate(NOW))
    assert found.keys() == expected.keys()
    for key, data in expected.items():
        if key.endswith(".parquet"):
            assert pq.read_table(locate(NOW).path / key).equals(pq.read_table(damage.as_file(found[key])))
        elif key == REPORT_KEY:  # the account that its index gave, which today's index gives in more detail
            assert found[key] == (FIXTURE_1 / "store" / REPORT_KEY_1).read_bytes()
        elif key == STORE_KEY:
            assert {**json.loads(found[key]), "created_by": ""} == {**json.loads(data), "created_by": ""}
        else:
            assert found[key] == data, key


def test_the_result_is_what_todays_programs_write(old):
    before = features(old)
    done = CliRunner().invoke(app, ["upgrade", str(old)])
    assert done.output.endswith("is now of format 2\n")
    is_the_present_store(old)
    assert features(old) == before
    report, now = (read_report(location, read_store_info(location)) for location in (old, locate(NOW)))
    for name in ("rules", "files", "pairs", "dropped", "rows", "same_image", "same_pair", "modalities", "unmapped"):
        assert getattr(report, name) == getattr(now, name), name
    assert "members" not in render(report)  # nobody counted them
    contents = damage.contents(old)
    again = CliRunner().invoke(app, ["upgrade", str(old)])
    assert again.output == f"{old} was already of format 2\n"
    assert damage.contents(old) == contents


def test_killed_at_any_step_it_reads_as_before_and_the_same_command_ends_it(old, tmp_path, monkeypatch):
    before = features(old)
    counted = damage.copy(old, locate(tmp_path / "counted"))
    faults._reached.clear()
    monkeypatch.setenv(faults.KILL_AT, "no step")
    upgrade(counted)
    steps = [f"{step}:{n + 1}" for step, count in faults._reached.items() for n in range(count)]
    assert len(steps) > 20
    for step in steps:
        location = damage.copy(old, locate(tmp_path / step))
        child = os.fork()
        if not child:
            faults._reached.clear()
            os.environ[faults.KILL_AT] = step
            upgrade(location)
            os._exit(0)
        assert os.waitpid(child, 0)[1]
        monkeypatch.delenv(faults.KILL_AT, raising=False)
        assert features(location) == before, step
        upgrade(location)
        is_the_present_store(location)


def test_killed_at_any_request_on_object_storage_it_reads_as_before(old, tmp_path):
    before, place = features(old), f"memory://upgrade/{tmp_path.name}"
    for requests in range(1000):
        location = damage.copy(old, locate(f"{place}/{requests}"))
        try:
            upgrade(Dying(location.uri, after=requests))
            break
        except Killed:
            assert features(location) == before, requests
            location.delete(["writer.lock"])
            upgrade(location)
            is_the_present_store(location)
    assert requests > 15


def test_chunks_of_another_order_are_put_in_order(old):
    before, info = features(old), read_store_info(old)
    key, receipt = shard_key("alpha", "image", 0), receipt_key("alpha", 0)
    shard, chunk_bytes = old.read(key), info.chunk_rows * 4 * 2
    index = np.frombuffer(shard[-index_bytes(info) : -4], "<u8").reshape(-1, 2)
    swapped = shard[chunk_bytes : 2 * chunk_bytes] + shard[:chunk_bytes] + damage.with_checksum(index[::-1])
    end = 2 * chunk_bytes
    assert decode_index(np.frombuffer(swapped, np.uint8)[end:], chunk_bytes=chunk_bytes, end=end).tolist()[0] > 0
    old.write(key, swapped)
    objects = json.loads(old.read(receipt))["objects"]
    objects[key]["sha256"] = hashlib.sha256(swapped).hexdigest()
    damage.edit_json(old, receipt, objects=objects)
    upgrade(old)
    assert features(old) == before
    assert old.read(key) == shard


def test_a_damaged_unit_is_named_and_keeps_the_store_as_it_is(old):
    damage.flip(old, shard_key("alpha", "text", 1))
    with pytest.raises(
        StoreError, match=r"1 receipts .*receipts/alpha/r000001\.json: .*text/c/1/0 is not what was"
    ) as caught:
        upgrade(old)
    assert "repair" in caught.value.hint
    assert read_store_info(old).version == 1
    repair(old, deep=True)
    assert upgrade(old)
    assert verify(old, deep=True).valid
    assert not FeatureStore(old).committed_rows("alpha")[8:16].any()


def test_who_lost_the_lock_replaces_no_receipt(old, monkeypatch):
    def taken_over(*_, **__):
        (old.path / "writer.lock").unlink(missing_ok=True)

    monkeypatch.setattr("store.check.upgrade.create_arrays", taken_over)
    before = {key: old.read(key) for key, _ in old.list("receipts")}
    with pytest.raises(LockLostError):
        upgrade(old)
    assert {key: old.read(key) for key, _ in old.list("receipts")} == before


def test_writers_refuse_a_store_of_the_old_format(old):
    info = read_store_info(old)
    with pytest.raises(FormatVersionError, match="format version 1") as caught:
        require_present_format(old, info)
    assert f"python -m store upgrade {old}" in caught.value.hint
    before = damage.contents(old)
    with pytest.raises(FormatVersionError):
        append_corpus(old, Corpus(files=[str(FIXTURE / "corpus/000.tar")]))
    assert damage.contents(old) == before
    assert register_teacher(old, spec("alpha"), info=info) == ""
