"""Making the pair table: in parts, in parallel, resumable, and growing."""

from __future__ import annotations

import hashlib
import io
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from store.corpus.curation import Keep
from store.corpus.image_source import ImageSource
from store.corpus.section import Corpus
from store.errors import CorpusError, FormatVersionError, StoreError
from store.format.commit import valid_receipt
from store.format.key_index import KEY_INDEX, KeyIndex, hash_text, write_key_index
from store.format.pair_writer import PairWriter
from store.format.pairs import PAIR_SCHEMA, PairTable, pairs_digest, part_key
from store.format.records import Receipt, StoreInfo, receipt_key, write_record
from store.index import indexing
from store.index.append import append_corpus
from store.index.create import index_corpus
from store.index.curation_report import read_report
from store.index.merge import read_corpus
from store.io.location import locate
from store.read.reader import FeatureStore


@pytest.fixture
def write_pairs_tar(write_tar, as_bytes):
    """Write a tar of pairs named by numbers."""

    def write(name, numbers):
        members = []
        for number in numbers:
            image = as_bytes(Image.new("RGB", (8, 8), (number % 256, number // 256, 7)))
            members += [(f"p{number:03d}.png", image), (f"p{number:03d}.txt", f"finding {number}".encode())]
        return write_tar(name, members)

    return write


@pytest.fixture
def grown(tmp_path, write_pairs_tar):
    """A store of ten pairs, its corpus, and a function that adds a tar of pairs to the corpus."""
    write_pairs_tar("corpus/000.tar", range(10))
    corpus = Corpus(files=[str(tmp_path / "corpus" / "**/*.tar")])
    info, _ = index_corpus(tmp_path / "store", corpus, range_rows=4, chunk_rows=2)
    return locate(tmp_path / "store"), corpus, info


def keys_of(location, info):
    return PairTable(location, info).read(0, info.rows, ["key"])["key"].to_pylist()


def group_rows(location, number):
    metadata = pq.ParquetFile(io.BytesIO(location.read(part_key(number)))).metadata
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def shape(writer):
    return StoreInfo(
        rows=writer.rows, range_rows=4, chunk_rows=2, created_by="", corpus_root="", corpus={}, parts=writer.parts
    )


def table_of(corpus):
    return read_corpus(corpus).table


def test_parts_hold_whole_ranges_and_row_groups_are_ranges(tmp_path, write_pairs_tar):
    table = table_of(Corpus(files=[str(write_pairs_tar("0.tar", range(23)))]))
    location = locate(tmp_path / "store")
    writer = PairWriter(location, range_rows=4, part_rows=9)
    for start in range(0, 23, 5):
        writer.add(table.slice(start, 5))
    assert writer.close() == [8, 8, 7]
    assert [group_rows(location, number) for number in range(3)] == [[4, 4], [4, 4], [4, 3]]
    pairs = PairTable(location, shape(writer))
    assert pairs.read(0, 23) == table
    for start, stop in ((0, 1), (7, 9), (3, 22), (16, 23)):
        assert pairs.read(start, stop) == table.slice(start, stop - start)


def test_an_empty_table_is_one_part_without_rows(tmp_path):
    location = locate(tmp_path / "store")
    writer = PairWriter(location, range_rows=4)
    assert writer.close() == [0]
    assert PairTable(location, shape(writer)).read(0, 0).schema == PAIR_SCHEMA


def test_a_second_run_does_not_read_files_again_that_were_done(tmp_path, write_pairs_tar):
    first, second = write_pairs_tar("c/0.tar", range(3)), write_pairs_tar("c/1.tar", range(3, 6))
    whole = second.read_bytes()
    second.write_bytes(whole[:600])
    corpus = Corpus(files=[str(tmp_path / "c/*.tar")])
    with pytest.raises(CorpusError, match=r"1\.tar: cannot be read"):
        index_corpus(tmp_path / "store", corpus, range_rows=4, chunk_rows=2)
    assert not (tmp_path / "store" / "store.json").exists()
    second.write_bytes(whole)
    times = first.stat()
    first.write_bytes(b"x" * times.st_size)
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = []
    info, _ = index_corpus(tmp_path / "store", corpus, range_rows=4, chunk_rows=2, on_shard=done.append)
    assert (info.rows, done) == (6, [1, 1])
    assert not (tmp_path / "store" / "index").exists()


def test_a_file_that_changed_after_a_killed_index_is_read_again(tmp_path, write_pairs_tar):
    write_pairs_tar("c/0.tar", range(3))
    second = write_pairs_tar("c/1.tar", range(3, 6))
    second.write_bytes(b"")
    corpus = Corpus(files=[str(tmp_path / "c/*.tar")])
    with pytest.raises(CorpusError, match=r"1\.tar"):
        index_corpus(tmp_path / "store", corpus, range_rows=4, chunk_rows=2)
    write_pairs_tar("c/0.tar", range(20, 25))
    write_pairs_tar("c/1.tar", range(3, 6))
    info, _ = index_corpus(tmp_path / "store", corpus, range_rows=4, chunk_rows=2)
    assert keys_of(locate(tmp_path / "store"), info)[:2] == ["p020", "p021"]


def test_parts_of_a_killed_index_under_other_rules_are_no_rows(tmp_path, write_pairs_tar):
    write_pairs_tar("c/0.tar", range(9))
    location = locate(tmp_path / "store")
    writer = PairWriter(location, range_rows=4, part_rows=4)
    writer.add(table_of(Corpus(files=[str(tmp_path / "c/0.tar")])))
    writer.close()
    info, _ = index_corpus(location, Corpus(files=[str(tmp_path / "c/0.tar")]), range_rows=4, chunk_rows=2)
    assert [key for key, _ in location.list("pairs")] == [part_key(0)]
    assert info.rows == 9


def test_several_processes_make_the_same_table_as_one(tmp_path, write_pairs_tar, monkeypatch):
    for number in range(4):
        write_pairs_tar(f"c/{number}.tar", range(3 * number, 3 * number + 3))
    corpus = Corpus(files=[str(tmp_path / "c/*.tar")])
    index_corpus(tmp_path / "one", corpus, range_rows=4, chunk_rows=2, workers=1)
    monkeypatch.setattr(indexing, "PARALLEL_BYTES", 0)
    done = []
    index_corpus(tmp_path / "two", corpus, range_rows=4, chunk_rows=2, workers=2, on_shard=done.append)
    assert len(done) == 4
    for key in (part_key(0), KEY_INDEX, "store.json", "curation.json"):
        assert (tmp_path / "one" / key).read_bytes() == (tmp_path / "two" / key).read_bytes(), key


def test_an_error_in_another_process_keeps_its_message_and_hint(tmp_path, write_pairs_tar, monkeypatch):
    for number in range(3):
        write_pairs_tar(f"c/{number}.tar", [number])
    (tmp_path / "c/1.tar").write_bytes(b"no tar")
    monkeypatch.setattr(indexing, "PARALLEL_BYTES", 0)
    with pytest.raises(CorpusError, match=r"1\.tar: cannot be read as an uncompressed tar") as caught:
        index_corpus(tmp_path / "s", Corpus(files=[str(tmp_path / "c/*.tar")]), range_rows=4, chunk_rows=2, workers=2)
    assert "fetch the file again" in caught.value.hint


def test_a_key_is_found_by_the_index_without_the_table(tmp_path):
    location = locate(tmp_path / "store")
    keys = [f"key {number}" for number in range(100_000)]
    write_key_index(location, np.array([hash_text(key) for key in keys], np.uint64))
    info = StoreInfo(
        rows=100_000, range_rows=4, chunk_rows=2, created_by="", corpus_root="", corpus={}, parts=[100_000]
    )
    index = KeyIndex(location, info)
    assert [index.rows_of(keys[row]) for row in (0, 51_234, 99_999)] == [[0], [51_234], [99_999]]
    assert index.rows_of("another") == []
    assert KeyIndex(location, info.model_copy(update={"rows": 100_001})).rows_of(keys[0]) is None
    assert KeyIndex(locate(tmp_path / "none"), info).rows_of("x") is None


def test_keys_whose_hashes_are_equal_are_told_apart_by_the_table(grown):
    location, _, info = grown
    write_key_index(location, np.full(10, hash_text("p007"), np.uint64))
    pairs = PairTable(location, info)
    assert pairs.row_of("p007") == 7
    with pytest.raises(StoreError, match="no pair has the key 'p003'"):
        pairs.row_of("p003")


def test_a_store_without_key_index_is_searched(grown):
    location, _, info = grown
    location.delete([KEY_INDEX])
    pairs = PairTable(location, info)
    assert pairs.row_of("p009") == 9
    with pytest.raises(StoreError, match="no pair has the key 'p010'"):
        pairs.row_of("p010")


def test_appending_adds_rows_and_changes_no_old_one(grown, write_pairs_tar):
    location, corpus, before = grown
    old = PairTable(location, before).read(0, 10)
    digests = [pairs_digest(old.slice(start, 4)) for start in (0, 4)]
    write_pairs_tar("corpus/001.tar", range(10, 21))
    info, report = append_corpus(location, corpus)
    assert (info.rows, info.ranges, report.rows, report.passed) == (21, 6, 11, {})
    pairs = PairTable(location, info)
    assert pairs.read(0, 10) == old
    assert [pairs_digest(pairs.read(start, start + 4)) for start in (0, 4)] == digests
    assert pairs.read(0, 21, ["row"])["row"].to_pylist() == list(range(21))
    assert info.parts == [10, 11]
    assert [group_rows(location, number) for number in (0, 1)] == [[4, 4, 2], [2, 4, 4, 1]]
    assert [pairs.row_of(key) for key in ("p003", "p010", "p020")] == [3, 10, 20]
    assert FeatureStore(location).info == info
    report = read_report(location, info)
    assert (report.files, report.pairs, report.rows) == (2, 21, 21)
    row = pairs.read(15, 16).to_pylist()[0]
    data = ImageSource(info.corpus_root).fetch(row["uri"], row["member"])
    assert hashlib.sha256(data).hexdigest() == row["image_sha256"]
    assert index_corpus(location, corpus, range_rows=4, chunk_rows=2) == (info, None)
    assert append_corpus(location, corpus) == (info, None)
    assert before.corpus_root == info.corpus_root


def test_appending_leaves_every_part_alone(grown, write_pairs_tar):
    location, corpus, _ = grown
    for number, first in enumerate((10, 15, 23, 24), start=1):
        write_pairs_tar(f"corpus/{number:03d}.tar", range(first, (15, 23, 24, 40)[number - 1]))
        kept = {n: location.read(part_key(n)) for n in range(10) if location.exists(part_key(n))}
        info, _ = append_corpus(location, corpus, part_rows=8)
        assert all(location.read(part_key(n)) == data for n, data in kept.items())
        assert keys_of(location, info) == [f"p{n:03d}" for n in range(info.rows)]
    assert info.parts == [10, 5, 5, 3, 1, 8, 8]
    groups = [[4, 4, 2], [2, 3], [1, 4], [3], [1], [4, 4], [4, 4]]
    assert [group_rows(location, n) for n in range(7)] == groups


def test_new_files_in_another_folder_keep_the_old_rows_uris(grown, write_pairs_tar, tmp_path):
    location, corpus, before = grown
    write_pairs_tar("other/0.tar", [50])
    wider = Corpus(files=[*corpus.files, str(tmp_path / "other/*.tar")])
    info, _ = append_corpus(location, wider)
    uris = PairTable(location, info).read(9, 11, ["uri"])["uri"].to_pylist()
    assert uris == ["000.tar", "../other/0.tar"]
    assert info.corpus_root == before.corpus_root
    row = PairTable(location, info).read(10, 11).to_pylist()[0]
    assert len(ImageSource(info.corpus_root).fetch(row["uri"], row["member"])) == row["member"]["nbytes"]
    assert index_corpus(location, wider, range_rows=4, chunk_rows=2) == (info, None)


def test_a_corpus_that_moved_can_grow_where_it_is_now(grown, write_pairs_tar, tmp_path):
    location, _, _ = grown
    (tmp_path / "corpus").rename(tmp_path / "moved")
    write_pairs_tar("moved/001.tar", [10])
    info, _ = append_corpus(location, Corpus(files=[str(tmp_path / "moved/*.tar")]))
    assert (info.rows, info.corpus_root) == (11, str(tmp_path / "moved"))


@pytest.mark.parametrize("what", ["changed", "is gone"])
def test_appending_is_refused_when_an_indexed_file_is_not_as_it_was(grown, write_pairs_tar, tmp_path, what):
    location, corpus, _ = grown
    write_pairs_tar("corpus/001.tar", [10])
    if what == "changed":
        write_pairs_tar("corpus/000.tar", range(11))
    else:
        (tmp_path / "corpus/000.tar").unlink()
    before = {key: location.read(key) for key, _ in location.list()}
    with pytest.raises(StoreError, match=rf"000\.tar {what} since it was indexed \(1 of 1 corpus files differ\)"):
        append_corpus(location, corpus)
    assert {key: location.read(key) for key, _ in location.list()} == before


def test_appending_under_other_rules_is_refused(grown, write_pairs_tar):
    location, corpus, _ = grown
    write_pairs_tar("corpus/001.tar", [10])
    with pytest.raises(StoreError, match="settings changed"):
        append_corpus(location, Corpus(files=corpus.files, keep=Keep(duplicates="image")))


def test_appending_to_a_store_of_format_1_is_refused_and_nothing_changes(grown, write_pairs_tar):
    location, corpus, info = grown
    write_record(location, "store.json", info.model_copy(update={"version": 1, "parts": None}))
    write_pairs_tar("corpus/001.tar", [10])
    before = {key: location.read(key) for key, _ in location.list()}
    with pytest.raises(FormatVersionError) as caught:
        append_corpus(location, corpus)
    assert "python -m store upgrade" in caught.value.hint
    assert {key: location.read(key) for key, _ in location.list()} == before


def test_a_new_pair_with_an_old_key_is_refused_and_nothing_changes(grown, write_pairs_tar):
    location, corpus, info = grown
    write_pairs_tar("corpus/001.tar", [10, 3])
    with pytest.raises(CorpusError, match="more than once in the corpus: 1, for instance 'p003'"):
        append_corpus(location, corpus)
    assert keys_of(location, info) == [f"p{n:03d}" for n in range(10)]


def test_what_a_killed_append_left_behind_is_no_row(grown, write_pairs_tar):
    location, corpus, info = grown
    store_json = location.read("store.json")
    write_pairs_tar("corpus/001.tar", range(10, 30))
    append_corpus(location, corpus, part_rows=8)
    location.write("store.json", store_json)
    assert keys_of(location, info) == [f"p{n:03d}" for n in range(10)]
    pairs = PairTable(location, info)
    assert pairs.row_of("p009") == 9
    with pytest.raises(StoreError, match="no pair has the key 'p010'"):
        pairs.row_of("p010")
    again, _ = append_corpus(location, corpus, part_rows=8)
    assert keys_of(location, again) == [f"p{n:03d}" for n in range(30)]


@pytest.mark.parametrize("rule", ["duplicates", "near_duplicates"])
def test_duplicates_of_old_rows_are_found_when_appending(tmp_path, write_tar, as_bytes, rule):
    drawn = np.random.default_rng(1).integers(0, 255, (2, 9, 9, 3)).astype(np.uint8)
    images = [as_bytes(Image.fromarray(one).resize((90, 90))) for one in drawn]
    again = images[0] if rule == "duplicates" else as_bytes(Image.fromarray(drawn[0]).resize((180, 180)))
    corpus = Corpus(
        files=[str(tmp_path / "c/*.tar")],
        keep=Keep(duplicates="image") if rule == "duplicates" else Keep(near_duplicates=3),
    )
    write_tar("c/0.tar", [("a.png", images[0]), ("a.txt", b"one")])
    index_corpus(tmp_path / "store", corpus, range_rows=4, chunk_rows=2)
    write_tar("c/1.tar", [("b.png", again), ("b.txt", b"two"), ("c.png", images[1]), ("c.txt", b"three")])
    info, _ = append_corpus(tmp_path / "store", corpus)
    assert keys_of(locate(tmp_path / "store"), info) == ["a", "c"]
    assert sum(read_report(locate(tmp_path / "store"), info).dropped.values()) == 1
    write_tar("c/2.tar", [("d.png", images[1]), ("d.txt", b"two"), ("e.png", b"no image"), ("e.txt", b"three")])
    info, _ = append_corpus(tmp_path / "store", corpus)
    assert keys_of(locate(tmp_path / "store"), info) == ["a", "c", "e"]


def test_only_the_partial_range_has_to_be_done_again(units, corpus, write_pairs_tar, tmp_path):
    units.register()
    for range_id in range(3):
        units.commit(range_id)
    write_pairs_tar("corpus/100.tar", range(100, 107))
    info, _ = append_corpus(units.location, corpus)
    pairs = PairTable(units.location, info)
    digests = [pairs_digest(pairs.read(*info.bounds(range_id))) for range_id in range(info.ranges)]
    spec_hash = units.spec().hash
    found = [
        valid_receipt(units.location, receipt_key("alpha", range_id), Receipt, spec_hash=spec_hash, digest=digest)
        for range_id, digest in enumerate(digests)
    ]
    assert [receipt is not None for receipt in found] == [True, True, False, False, False]


def test_a_store_and_its_corpus_may_both_lie_at_a_url(tmp_path, write_pairs_tar):
    bucket = locate(f"memory://both{tmp_path}")
    bucket.write("corpus/0.tar", write_pairs_tar("0.tar", range(6)).read_bytes())
    corpus = Corpus(files=[f"{bucket.uri}/corpus/*.tar"])
    info, _ = index_corpus(f"{bucket.uri}/store", corpus, range_rows=4, chunk_rows=2)
    assert info.corpus_root == f"{bucket.uri}/corpus"
    assert index_corpus(f"{bucket.uri}/store", corpus, range_rows=4, chunk_rows=2) == (info, None)
    bucket.write("corpus/1.tar", write_pairs_tar("1.tar", range(6, 9)).read_bytes())
    info, _ = append_corpus(f"{bucket.uri}/store", corpus)
    store = FeatureStore(f"{bucket.uri}/store")
    for row in store.pairs.read(0, 9).to_pylist():
        assert hashlib.sha256(store.images.fetch(row["uri"], row["member"])).hexdigest() == row["image_sha256"]
    bucket.write("corpus/0.tar", write_pairs_tar("2.tar", range(16, 22)).read_bytes())
    with pytest.raises(StoreError, match=r"0\.tar changed since it was indexed"):
        append_corpus(f"{bucket.uri}/store", corpus)
