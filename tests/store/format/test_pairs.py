"""The pair table: what its parts state of themselves, and how little of it is opened."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store.errors import FormatVersionError, StoreError, StoreNotFoundError
from store.format.key_index import KeyIndex, hash_texts, write_key_index
from store.format.pair_writer import PairWriter
from store.format.pairs import OPEN_PARTS, PAIR_SCHEMA, PairTable, pairs_digest, part_key
from store.format.records import StoreInfo, read_store_info, require_present_format
from store.io.location import locate
from store.io.remote import Remote

SCHEMA = PAIR_SCHEMA.remove(0)


def rows_of(start, stop):
    numbers = range(start, stop)
    columns = {name: [f"{name} {n}" for n in numbers] for name in ("key", "caption", "image_sha256")}
    return pa.table([pa.array(columns.get(f.name, [None] * len(numbers)), f.type) for f in SCHEMA], schema=SCHEMA)


def write(location, *ends, range_rows=4, part_rows=8):
    """Write a table as an index and appends do that end at these rows."""
    info, start = None, 0
    for end in ends:
        after = PairTable(location, info) if info else None
        writer = PairWriter(location, range_rows=range_rows, part_rows=part_rows, after=after)
        writer.add(rows_of(start, end))
        shape = {"rows": end, "range_rows": range_rows, "chunk_rows": 1, "parts": writer.close()}
        info, start = StoreInfo(**shape, created_by="", corpus_root="", corpus={}), end
    return info


@pytest.fixture(params=["folder", "memory"])
def location(request, tmp_path):
    return locate(tmp_path / "store" if request.param == "folder" else f"memory://{tmp_path.name}")


class Opened:
    """Counts the objects that are opened."""

    def __init__(self, monkeypatch):
        self.keys = Counter()
        for module in ("pairs", "key_index"):
            monkeypatch.setattr(f"store.format.{module}.open_parquet", self.open)

    def open(self, location, key, **options):
        from store.io.object_file import open_parquet

        self.keys[key] += 1
        return open_parquet(location, key, **options)


def test_parts_are_added_and_never_changed_and_hold_each_row_once(location):
    before = {}
    for ends in ((10,), (10, 11), (10, 11, 11, 30)):
        info = write(location, *ends)
        after = {key: location.read(key) for key, _ in location.list("pairs")}
        assert {key: after[key] for key in before} == before
        assert PairTable(location, info).read(0, info.rows, SCHEMA.names) == rows_of(0, ends[-1])
        before = after
    assert info.parts == [8, 2, 1, 5, 8, 6]
    assert list(before) == [part_key(number) for number in range(6)]


def test_the_digest_of_every_range_and_of_every_end_that_the_table_had_is_stated(location, monkeypatch):
    info = write(location, 10, 11, 30)
    table = PairTable(location, info)
    ends = [(start, min(start + 4, 30)) for start in range(0, 30, 4)] + [(8, 10), (8, 11)]
    expected = {bounds: pairs_digest(table.read(*bounds)) for bounds in ends}
    with monkeypatch.context() as patched:
        patched.setattr(PairTable, "read", None)
        assert {bounds: table.digest(*bounds) for bounds in ends} == expected
    assert table.digest(4, 7) == pairs_digest(table.read(4, 7))
    assert table.digest(6, 8) == pairs_digest(table.read(6, 8))


@pytest.mark.parametrize("stated", [None, "{}", "no JSON", '{"data_bytes": 1, "digests": []}', "[]"])
def test_a_part_that_another_tool_rewrote_is_digested_anew(tmp_path, stated):
    location = locate(tmp_path)
    info = write(location, 10)
    part = pq.ParquetFile(tmp_path / part_key(0)).read()
    assert b"mmkd.pairs" in part.schema.metadata  # which a tool that rewrites the part carries on
    edited = part.set_column(4, PAIR_SCHEMA.field("caption"), pa.array(["another"] * len(part)))
    if stated is not None:
        edited = edited.replace_schema_metadata({b"mmkd.pairs": stated.encode()})
    before = PairTable(location, info).digest(0, 4)
    pq.write_table(edited, tmp_path / part_key(0), row_group_size=4, compression="zstd")
    table = PairTable(location, info)
    assert table.digest(0, 4) == pairs_digest(table.read(0, 4)) != before


def test_one_row_opens_one_part_of_a_table_of_any_size(location, monkeypatch):
    info = write(location, 400)
    opened = Opened(monkeypatch)
    table = PairTable(location, info)
    assert table.read(201, 202)["key"].to_pylist() == ["key 201"]
    assert table.digest(200, 204)
    assert opened.keys == {part_key(25): 1}
    assert table.read(199, 202)["key"].to_pylist() == ["key 199", "key 200", "key 201"]
    assert opened.keys == {part_key(24): 1, part_key(25): 1}


def test_few_parts_are_open_at_a_time(tmp_path):
    info = write(locate(tmp_path), 400)
    table = PairTable(locate(tmp_path), info)
    before = len([*Path("/proc/self/fd").iterdir()])
    assert [table.read(row, row + 1)["row"][0].as_py() for row in range(400)] == list(range(400))
    assert len([*Path("/proc/self/fd").iterdir()]) - before <= OPEN_PARTS


def test_what_no_record_names_is_no_row_and_is_swept_by_the_next_writer(location):
    info = write(location, 10, 30)
    location.write("pairs/keys.parquet", b"of format 1")
    first = info.model_copy(update={"rows": 10, "parts": info.parts[:2]})
    assert PairTable(location, first).read(0, 10, SCHEMA.names) == rows_of(0, 10)
    writer = PairWriter(location, range_rows=4, part_rows=8, after=PairTable(location, first))
    writer.add(rows_of(10, 11))
    assert writer.close() == [8, 2, 1]
    assert [key for key, _ in location.list("pairs")] == [part_key(number) for number in range(3)]


def test_the_parts_of_format_1_are_found_by_listing(location):
    info = write(location, 10, 30).model_copy(update={"version": 1, "parts": None, "rows": 12})
    location.write("pairs/keys.parquet", location.read(part_key(0)))
    table = PairTable(location, info)
    assert table.parts == [8, 2, 6, 8, 6]
    assert table.read(0, 12, SCHEMA.names) == rows_of(0, 12)
    assert table.digest(8, 12) == pairs_digest(table.read(8, 12))


def test_a_part_that_is_missing_or_of_other_rows_is_named_when_it_is_needed(location):
    info = write(location, 10, 30)
    location.write(part_key(1), location.read(part_key(2)))
    location.delete([part_key(3)])
    table = PairTable(location, info)
    assert table.read(0, 8, SCHEMA.names) == rows_of(0, 8)
    with pytest.raises(StoreError, match=r"part-00001\.parquet has 6 rows, store\.json says 2"):
        table.read(8, 9)
    with pytest.raises(StoreNotFoundError, match=r"part-00003\.parquet is missing"):
        table.read(16, 17)
    with pytest.raises(StoreError, match=r"part-00001\.parquet"):
        table.check()
    with pytest.raises(StoreError, match=r"has 30 rows, store\.json says 31"):
        PairTable(location, info.model_copy(update={"rows": 31}))


def test_a_key_index_that_is_replaced_under_a_reader_gives_the_rows_that_it_knew(location):
    info = write(location, 10)
    keys = [f"key {number}" for number in range(70_000)]
    write_key_index(location, hash_texts(keys[:10]))
    table = PairTable(location, info)
    assert table.row_of("key 7") == 7
    write_key_index(location, hash_texts(reversed(keys)))
    with pytest.raises(StoreError, match="no pair has the key 'key 7'"):
        table.row_of("key 7")  # its row in the new index is beyond this table
    write_key_index(location, np.concatenate([hash_texts(keys[:10]), hash_texts(keys[10:])]))
    assert [table.row_of(key) for key in keys[:10]] == list(range(10))


def test_a_key_index_that_is_replaced_between_two_requests_is_looked_up_again(tmp_path):
    keys = [f"key {number}" for number in range(150_000)]

    class Replaced(Remote):
        """Replaces the index by that of more rows before a part of it is read, after so many parts."""

        def read_part(self, key, offset, nbytes, **options):
            if key == "keys.parquet":
                self.parts = self.parts - 1
                if self.parts == 0:
                    write_key_index(Remote(self.uri), hash_texts(keys))
            return super().read_part(key, offset, nbytes, **options)

    for parts in (1, 2, 3):
        location = Replaced(f"memory://{tmp_path.name}/{parts}")
        info, location.parts = write(location, 10), -1
        write_key_index(Remote(location.uri), hash_texts(keys[:10] + [f"other {key}" for key in keys[10:70_000]]))
        location.parts = parts
        assert KeyIndex(location, info).rows_of("key 7") == [7], parts
        assert location.parts <= 0  # it was replaced meanwhile


def test_the_key_index_of_format_1_lies_beside_the_parts(location, monkeypatch):
    info = write(location, 10).model_copy(update={"version": 1, "parts": None})
    write_key_index(location, hash_texts([f"key {number}" for number in range(10)]))
    location.write("pairs/keys.parquet", location.read("keys.parquet"))
    location.delete(["keys.parquet"])
    table, opened = PairTable(location, info), Opened(monkeypatch)
    assert table.row_of("key 9") == 9
    assert opened.keys == {"pairs/keys.parquet": 1, part_key(1): 1}


def test_writing_to_a_store_of_format_1_is_refused_with_the_command_that_makes_one_of_format_2(units):
    require_present_format(units.location, units.info)
    record = json.loads(units.location.read("store.json"))
    units.location.write("store.json", json.dumps({**record, "version": 1, "parts": None}).encode())
    with pytest.raises(FormatVersionError, match="of format version 1, which is read; only version 2") as caught:
        require_present_format(units.location, read_store_info(units.location))
    assert f"python -m store upgrade {units.path}" in caught.value.hint
