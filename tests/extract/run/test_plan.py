"""The work that is left follows from one listing of receipts; none is read twice."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from extract.run.plan import KnownUnits, plan
from store.corpus.section import Corpus
from store.format.pairs import PairTable
from store.format.records import KNOWN_UNITS_KEY, RETRY_FOLDER, STORE_KEY, Receipt, read_store_info, receipt_key
from store.index.append import append_corpus
from store.io.folder import Folder
from store.read.reader import FeatureStore


class Counting(Folder):
    """A folder that remembers which objects were read."""

    def __init__(self, path):
        super().__init__(path)
        self.reads = []

    def read(self, key):
        self.reads.append(key)
        return super().read(key)


@pytest.fixture
def store(tmp_path, corpus, teachers, write_pipeline, extract_here):
    """A finished store of four ranges by two teachers."""
    return extract_here(write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers=teachers))[0]


def planned(store, names=("small", "wide")):
    """Plan over a store; return what is lacking, and which receipts were read."""
    location, info = Counting(store), read_store_info(Folder(store))
    opened = FeatureStore(store)
    specs = {name: opened.spec(name) for name in names}
    found = plan(location, info=info, pairs=PairTable(Folder(store), info), specs=specs)
    lacking = {(name, item.range_id) for item in found.work for name in item.teachers}
    assert found.units - found.committed == len(lacking)
    return lacking, [key for key in location.reads if key.startswith("receipts/")], found


def test_a_plan_after_a_run_reads_no_receipt(store):
    assert planned(store)[:2] == (set(), [])


def test_without_what_was_known_every_receipt_is_read_once_and_then_none(store):
    (store / KNOWN_UNITS_KEY).unlink()
    lacking, reads, found = planned(store)
    assert (lacking, len(reads)) == (set(), 8)
    assert not (store / KNOWN_UNITS_KEY).exists()  # a plan writes nothing
    found.known.write(Folder(store))
    assert planned(store)[:2] == (set(), [])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', '{"version": 1, "digests": [], "teachers": 3}'])
def test_knowledge_that_cannot_be_read_is_no_knowledge(store, content, caplog):
    (store / KNOWN_UNITS_KEY).write_text(content)
    with caplog.at_level(logging.WARNING):
        lacking, reads, _ = planned(store)
    assert (lacking, len(reads)) == (set(), 8)
    assert "cannot be read, all receipts are read instead" in caplog.text


def test_a_receipt_that_is_gone_or_damaged_or_marked_is_to_do(store):
    (store / receipt_key("small", 0)).unlink()
    (store / receipt_key("wide", 1)).write_text("{")
    Folder(store).write(receipt_key("small", 3, folder=RETRY_FOLDER), b"{}")
    lacking, reads, _ = planned(store)
    assert lacking == {("small", 0), ("wide", 1), ("small", 3)}
    assert reads == [receipt_key("wide", 1)]


def test_a_receipt_of_other_pairs_or_another_spec_is_to_do(store):
    for field, unit in (("pairs_digest", ("small", 1)), ("spec_hash", ("wide", 2))):
        path = store / receipt_key(*unit)
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {field: "another"}))
    assert planned(store)[0] == {("small", 1), ("wide", 2)}


def test_a_receipt_that_does_not_count_hides_no_other(store):
    (store / KNOWN_UNITS_KEY).unlink()
    path = store / receipt_key("small", 0)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"spec_hash": "another"}))
    assert planned(store)[0] == {("small", 0)}


def test_a_range_without_a_known_digest_is_read_again():
    known = KnownUnits.model_validate({"digests": {}, "teachers": {"small": {"spec_hash": "s", "sizes": {"0": 9}}}})
    assert not known.has(("small", 0), size=9, spec_hash="s", stop=16)


def test_what_is_known_of_another_spec_does_not_count(store):
    known = KnownUnits.read(Folder(store))
    known.teachers["wide"].spec_hash, known.changed = "another", True
    known.write(Folder(store))
    lacking, reads, found = planned(store)
    assert (lacking, len(reads)) == (set(), 4)
    found.known.write(Folder(store))
    assert planned(store)[:2] == (set(), [])


@pytest.mark.parametrize("hashes", ["ab", "ba"])
def test_a_receipt_of_another_spec_drops_what_was_known_of_the_teacher(hashes):
    known = KnownUnits(digests={}, teachers={})
    unit = {"teacher": "small", "start": 0, "pairs_digest": "p", "stop": 16}
    for range_id, spec_hash in enumerate(hashes):
        known.add(Receipt.model_construct(range=range_id, spec_hash=spec_hash, **unit), size=9)
    assert not any(known.has(("small", 0), size=9, spec_hash=spec_hash, stop=16) for spec_hash in hashes)
    assert known.has(("small", 1), size=9, spec_hash=hashes[1], stop=16)


def test_receipts_of_ranges_that_the_store_does_not_have_are_not_read(store):
    content = (store / receipt_key("small", 0)).read_bytes()
    for range_id in (4, 5):
        (store / receipt_key("small", range_id)).write_bytes(content)
    assert planned(store)[:2] == (set(), [])


def test_units_of_a_teacher_that_is_not_planned_do_not_count(store):
    lacking, reads, found = planned(store, ["small"])
    assert (lacking, reads, found.units) == (set(), [], 4)


def test_knowledge_of_other_pairs_is_not_trusted_against_a_receipt(store):
    known = KnownUnits.read(Folder(store))
    stop, _ = known.digests[1]
    known.digests[1], known.changed = (stop, "of a store that was here before"), True
    for teacher in known.teachers.values():
        teacher.sizes.pop(1)
    known.write(Folder(store))
    assert planned(store)[0] == set()


def test_after_an_append_only_the_range_that_was_short_and_the_new_ones_are_to_do(store, corpus, tmp_path, write_tar):
    extra = write_tar(tmp_path / "more", [(f"new{i}", None, f"caption {i}") for i in range(30)])
    append_corpus(store, Corpus(files=[f"{corpus}/*.tar", f"{extra}/*.tar"]))
    lacking, reads, _ = planned(store)
    assert lacking == {(name, number) for name in ("small", "wide") for number in (3, 4, 5)}
    assert {*reads} == {receipt_key("small", 3), receipt_key("wide", 3)}


def test_receipts_of_a_store_that_was_here_before_are_not_believed(
    store, tmp_path, teachers, write_pipeline, write_tar, encoded, extract_here
):
    (store / STORE_KEY).unlink()
    pairs = [(f"new{i}", encoded(np.full((64, 64, 3), i, np.uint8)), f"caption {i}") for i in range(60)]
    folder = write_tar(tmp_path / "other", pairs)
    outcome = extract_here(write_pipeline(tmp_path, files=[folder / "*.tar"], teachers=teachers))[1]
    assert (outcome.found, outcome.done) == (0, 8)
