"""The format by its document: what the document builds, store/ reads, and what store/ writes, the document reads."""

from __future__ import annotations

import ast
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store.check.verify import verify
from store.errors import FormatVersionError, StoreError
from store.format.records import VERSION, Status
from store.io.location import locate
from store.read.reader import FeatureStore
from tests.store import by_the_book as book

SPEC = {
    "teacher": "alpha",
    "embed_dim": 6,
    "weights_sha256": None,
    "architecture": {"eps": 1e-05, "name": "Größe 🩻", "layers": 2},
    "preprocessing": {"mean": [0.5, 1.0, 1e16]},
    "tokenizer": {},
    "output": "projected",
    "compute_dtype": "float32",
    "notes": {"licence": "none"},
}
INFO = {
    "format": "mmkd-feature-store",
    "version": 2,
    "rows": 10,
    "range_rows": 4,
    "chunk_rows": 2,
    "created_by": "a test",
    "corpus_root": "/corpora/none",
    "corpus": {},
    "parts": [5, 2, 3],
}
COLUMNS = ("caption", "modality", "split", "image_sha256", "source", "license")


def pairs_of(rows):
    """Pairs with Unicode and control characters, without caption, without image, and images of three kinds."""
    pairs = []
    for row in range(rows):
        pair = dict.fromkeys(book.PAIRS.names)
        pair |= {"row": row, "key": f"k/{row} ü", "uri": f"{row}.tar", "member": {"offset": 512, "nbytes": 7}}
        pair |= {name: f'{name} {row} \x7f\u2028\U0001fa7b\t"\\' for name in COLUMNS} | {"width": 8, "height": row}
        pairs.append(pair)
    pairs[1] |= {"caption": None, "member": {"column": "image.bytes", "row": 3}}
    pairs[2] |= {"uri": None, "member": None, "image_sha256": None, "width": None, "height": None}
    pairs[3] |= {"member": None, "modality": None}
    return pairs


def features_of(rows, *, seed, width=6, **spec):
    drawn = np.random.default_rng(seed).normal(size=(2, rows, width)).astype(np.float32)
    image, text = drawn / np.linalg.norm(drawn, axis=2, keepdims=True)
    status = np.full(rows, book.OK, np.uint8)
    status[[2, 5]] = book.BAD_IMAGE, book.NOT_APPLICABLE
    return book.Features(
        spec={**SPEC, "embed_dim": width, **spec}, image=image, text=text, status=status, reasons={2: "no image"}
    )


@pytest.fixture
def booked(tmp_path):
    """A store that the document built: float16 by default, float32, and int8 with a hole."""
    teachers = {
        "alpha": features_of(10, seed=1),
        "beta": features_of(10, seed=2, width=4, teacher="beta", stored_dtype="float32"),
        "gamma": features_of(10, seed=3, teacher="gamma", stored_dtype="int8"),
    }
    teachers["gamma"].holes = (1,)
    book.write_store(tmp_path / "booked", pairs_of(10), teachers, info=INFO)
    return tmp_path / "booked", teachers


def test_the_book_imports_nothing_of_the_repository():
    tree = ast.parse((Path(__file__).parents[1] / "by_the_book.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert not any(node.level for node in imports if isinstance(node, ast.ImportFrom))
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in imports if isinstance(node, ast.ImportFrom)}
    allowed = {
        "__future__",
        "dataclasses",
        "google_crc32c",
        "hashlib",
        "json",
        "itertools",
        "math",
        "numpy",
        "pathlib",
        "pyarrow",
        "typing",
        "zarr",
    }
    assert {name.split(".")[0] for name in names} <= allowed
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"__import__", "exec", "eval"}


def test_a_store_built_by_the_document_is_valid_to_the_last_byte(booked):
    path, _ = booked
    report = verify(locate(path), deep=True)
    assert report.problems == []
    assert report.counts()["alpha"] == {"verified": 3, "outgrown": 0, "missing": 0, "damaged": 0}
    assert report.counts()["gamma"] == {"verified": 2, "outgrown": 0, "missing": 1, "damaged": 0}


@pytest.mark.parametrize("side", ["image", "text"])
def test_features_built_by_the_document_are_read(booked, side):
    path, teachers = booked
    store = FeatureStore(path)
    assert store.teachers == ["alpha", "beta", "gamma"]
    for name, dtype, tolerance in (("alpha", np.float16, 5e-4), ("beta", np.float32, 0), ("gamma", np.float32, 8e-3)):
        expected = getattr(teachers[name], side).copy()
        expected[[2, 5]] = 0
        if name == "gamma":
            expected[4:8] = 0
        read = store.read(slice(0, 10), teacher=name, side=side)
        assert read.dtype == dtype
        np.testing.assert_allclose(read, expected, rtol=0, atol=tolerance)
        np.testing.assert_array_equal(store.read(np.array([9, 0, 6]), teacher=name, side=side), read[[9, 0, 6]])


def test_status_similarity_spec_and_receipts_built_by_the_document_are_read(booked):
    path, teachers = booked
    store = FeatureStore(path)
    for name, features in teachers.items():
        committed = store.committed_rows(name)
        assert store.is_complete(name) == (name != "gamma")
        assert store.status(name).tolist() == np.where(committed, features.status, 0).tolist()
        cosine = np.where(store.status(name) == book.OK, (features.image * features.text).sum(axis=1), 0)
        np.testing.assert_allclose(store.similarity(name), cosine, atol=1e-6)
        assert store.spec(name).hash == book.spec_hash(features.spec)
        assert [bad.row for receipt in store.receipts(name).values() for bad in receipt.bad_rows] == [2]


@pytest.mark.parametrize("index", [True, False])
def test_pairs_built_by_the_document_are_read(tmp_path, index):
    pairs = pairs_of(10)
    book.write_store(tmp_path, pairs, {}, info=INFO, index=index)
    table = FeatureStore(tmp_path).pairs
    full = [pair | {"member": pair["member"] and {**dict.fromkeys(MEMBER), **pair["member"]}} for pair in pairs]
    assert table.read(0, 10).to_pylist() == full
    assert [table.row_of(pair["key"]) for pair in pairs] == list(range(10))
    with pytest.raises(StoreError, match="no pair has the key 'k/10 ü'"):
        table.row_of("k/10 ü")


MEMBER = ("offset", "nbytes", "column", "row")


def test_a_pair_table_in_parts_with_a_member_of_two_fields_and_rows_of_a_killed_append_is_read(tmp_path):
    """As version 1 has it: parts hold whole ranges, are found by listing, and may have more rows than the store."""
    pairs = pairs_of(11)
    for part, (first, stop) in enumerate(((0, 8), (8, 11))):
        book.write_pairs(tmp_path, pairs[:stop], info=INFO, part=part, first=first)
    first = tmp_path / "pairs/part-00000.parquet"
    short = pa.array([{"offset": 512, "nbytes": 7}] * 8, pa.struct([("offset", pa.int64()), ("nbytes", pa.int64())]))
    table = pq.read_table(first).set_column(3, "member", short)
    pq.write_table(table.append_column("extra", pa.nulls(8)), first, row_group_size=4)
    old = {name: value for name, value in INFO.items() if name != "parts"}
    (tmp_path / "store.json").write_text(json.dumps({**old, "version": 1}))
    found = FeatureStore(tmp_path).pairs
    assert found.read(6, 10)["member"].to_pylist()[0] == {"offset": 512, "nbytes": 7, "column": None, "row": None}
    assert found.read(6, 10)["key"].to_pylist() == [pair["key"] for pair in pairs[6:10]]
    with pytest.raises(StoreError, match="no pair has the key"):
        found.row_of(pairs[10]["key"])


@pytest.fixture
def written(units):
    """A store that store/ wrote: three ranges; two dtypes; bad rows, a row that is not applicable."""
    dtypes = {"alpha": "float16", "beta": "int8"}
    for teacher, dtype in dtypes.items():
        units.register(teacher, stored_dtype=dtype, architecture=SPEC["architecture"])
        spec = units.spec(teacher, stored_dtype=dtype, architecture=SPEC["architecture"])
        for range_id in range(3):
            features = units.features(range_id)
            if range_id == 1:
                features.status[:2] = Status.BAD_IMAGE, Status.NOT_APPLICABLE
                features.text[3, 0] = np.nan
            units.commit(range_id, teacher=teacher, features=features, spec=spec)
    return units


def test_a_store_that_was_written_is_what_the_document_says(written):
    info = book.read_info(written.path)
    assert {name: info[name] for name in ("rows", "range_rows", "chunk_rows")} == {
        "rows": 10,
        "range_rows": 4,
        "chunk_rows": 2,
    }
    for teacher in ("alpha", "beta"):
        assert len(book.read_features(written.path, teacher).receipts) == 3
        assert book.damage(written.path, teacher) == []


def test_features_that_were_written_are_read_by_the_document(written):
    parts = [written.features(range_id) for range_id in range(3)]
    for teacher, tolerance in (("alpha", 5e-4), ("beta", 8e-3)):
        read = book.read_features(written.path, teacher)
        assert read.status.tolist() == [1, 1, 1, 1, 2, 6, 1, 5, 1, 1]
        for side in ("image", "text"):
            expected = np.concatenate([getattr(part, side) for part in parts])
            expected[[4, 5, 7]] = 0
            np.testing.assert_allclose(getattr(read, side), expected, rtol=0, atol=tolerance)
            np.testing.assert_array_equal(
                getattr(read, side), FeatureStore(written.path).read(slice(0, 10), teacher=teacher, side=side)
            )
        bad = [(entry["row"], entry["key"], entry["status"]) for r in read.receipts for entry in r["bad_rows"]]
        assert bad == [(4, "p04", 2), (7, "p07", 5)]


def test_the_pair_table_that_was_written_is_what_the_document_says(written):
    part = pq.ParquetFile(written.path / "pairs/part-00000.parquet")
    assert part.schema_arrow.equals(book.PAIRS)
    assert json.loads((written.path / "store.json").read_bytes())["parts"] == [10]
    stated = json.loads(part.metadata.metadata[b"mmkd.pairs"])
    rows = book.read_pairs(written.path)
    assert stated["data_bytes"] == book.data_bytes(part.metadata)
    assert stated["digests"] == [[k, stop, book.pairs_digest(rows[4 * k : stop])] for k, stop in enumerate((4, 8, 10))]
    assert [part.metadata.row_group(group).num_rows for group in range(part.num_row_groups)] == [4, 4, 2]
    assert {part.metadata.row_group(0).column(place).compression for place in range(part.metadata.num_columns)} == {
        "ZSTD"
    }
    pairs = book.read_pairs(written.path)
    assert [pair["row"] for pair in pairs] == list(range(10))
    tar = (written.path.parent / "corpus" / pairs[7]["uri"]).read_bytes()
    image = tar[pairs[7]["member"]["offset"] :][: pairs[7]["member"]["nbytes"]]
    assert hashlib.sha256(image).hexdigest() == pairs[7]["image_sha256"]
    keys = pq.read_table(written.path / "keys.parquet")
    assert keys.schema.equals(book.KEYS)
    hashes = sorted((book.key_hash(pair["key"]), pair["row"]) for pair in pairs)
    assert list(zip(keys["key_hash"].to_pylist(), keys["row"].to_pylist(), strict=True)) == hashes


def test_a_shard_can_be_taken_apart_without_zarr(written):
    """The last range has two rows of four: one chunk of two."""
    shard = (written.path / "features.zarr/alpha/image/c/2/0").read_bytes()
    values, index = shard[: 2 * 6 * 2], shard[2 * 6 * 2 : -4]
    np.testing.assert_array_equal(
        np.frombuffer(values, "<f2").reshape(2, 6), written.features(2).image.astype(np.float16)
    )
    assert struct.unpack("<4Q", index) == (0, 24, 2**64 - 1, 2**64 - 1)


def test_both_write_the_same_bytes(written, tmp_path):
    """The same features make the same store, except for time, place and program."""
    teachers = {}
    for name in ("alpha", "beta"):
        parts = [written.features(range_id) for range_id in range(3)]
        image, text = (np.concatenate([getattr(part, side) for part in parts]) for side in ("image", "text"))
        spec = json.loads((written.path / f"specs/{name}.json").read_bytes())
        status = np.array([1, 1, 1, 1, 2, 6, 1, 5, 1, 1], np.uint8)
        teachers[name] = book.Features(spec=spec, image=image, text=text, status=status, reasons={4: "", 7: ""})
    book.write_store(tmp_path / "twin", book.read_pairs(written.path), teachers, info=book.read_info(written.path))
    shards = [
        path.relative_to(written.path) for path in (written.path / "features.zarr").rglob("c/**/*") if path.is_file()
    ]
    assert len(shards) == 2 * 4 * 3
    for shard in shards:
        if "similarity" not in shard.parts:  # the order of a sum is not the format's
            assert (tmp_path / "twin" / shard).read_bytes() == (written.path / shard).read_bytes(), shard


@pytest.mark.parametrize(("field", "value", "rows"), [("notes", {"licence": "MIT"}, 10), ("output", "hidden", 0)])
def test_receipts_hold_for_every_spec_that_differs_in_notes_alone(booked, field, value, rows):
    path, teachers = booked
    book.write_json(path / "specs/alpha.json", {**teachers["alpha"].spec, field: value})
    assert FeatureStore(path).committed_rows("alpha").sum() == rows
    assert (book.read_features(path, "alpha").status > 0).sum() == rows


def test_a_store_of_an_unknown_version_is_refused_naming_both(booked):
    path, _ = booked
    book.write_json(path / "store.json", {**INFO, "version": VERSION + 1, "codec": "of the future"})
    with pytest.raises(FormatVersionError, match=r"in store format version 3, this program reads versions 1 and 2"):
        FeatureStore(path)
    with pytest.raises(FormatVersionError, match=r"in store format version 3, this program reads versions 1 and 2"):
        verify(locate(path))


def test_a_receipt_of_an_unknown_version_is_refused_naming_both(booked):
    path, _ = booked
    receipt = path / "receipts/alpha/r000001.json"
    book.write_json(receipt, {**json.loads(receipt.read_bytes()), "version": 3})
    with pytest.raises(FormatVersionError, match=r"r000001\.json: written in store format version 3"):
        FeatureStore(path).status("alpha")


@pytest.mark.parametrize("key", ["store.json", "specs/alpha.json", "receipts/alpha/r000000.json"])
def test_a_record_with_an_unknown_field_is_refused(booked, key):
    path, _ = booked
    book.write_json(path / key, {**json.loads((path / key).read_bytes()), "colour": "blue"})
    if key.startswith("receipts"):
        assert FeatureStore(path).status("alpha").tolist()[:4] == [0] * 4
    else:
        with pytest.raises(StoreError, match="colour"):
            FeatureStore(path).spec("alpha")
