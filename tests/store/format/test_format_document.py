"""Fields, metadata and digests are written as docs/store-format.md says."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import google_crc32c
import pyarrow as pa
import pytest
import zarr

from store.format.commit import register_teacher
from store.format.key_index import hash_text
from store.format.pairs import PAIR_SCHEMA, pairs_digest
from store.format.pixels import PIXEL_SCHEMA
from store.format.records import Receipt, Spec, Status, StoredObject, StoreInfo
from tests.store import by_the_book as book

DOCUMENT = (Path(__file__).parents[3] / "docs/store-format.md").read_text()


@pytest.mark.parametrize("stored_dtype", ["float16", "float32", "int8"])
@pytest.mark.parametrize("name", book.ARRAYS)
def test_array_metadata_is_what_the_document_says(units, stored_dtype, name):
    register_teacher(units.location, units.spec(stored_dtype=stored_dtype), info=units.info)
    metadata = json.loads((units.path / f"features.zarr/alpha/{name}/zarr.json").read_bytes())
    tail = [6] if name in ("image", "text") else []
    dtype = {"similarity": "float32", "status": "uint8"}.get(name, stored_dtype)
    plain = (
        {"name": "bytes"} if dtype in ("uint8", "int8") else {"name": "bytes", "configuration": {"endian": "little"}}
    )
    index_codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    assert metadata == {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [10, *tail],
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, *tail]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [2, *tail],
                    "codecs": [plain],
                    "index_codecs": index_codecs,
                    "index_location": "end",
                },
            }
        ],
        "attributes": {},
        "dimension_names": ["row", *("feature" for _ in tail)],
        "storage_transformers": [],
    }


def test_groups_hold_no_consolidated_metadata(units):
    units.register()
    for key in ("features.zarr/zarr.json", "features.zarr/alpha/zarr.json"):
        metadata = json.loads((units.path / key).read_bytes())
        assert metadata == {"zarr_format": 3, "node_type": "group", "attributes": {}}


def rows_of(heading):
    """Return the first cells of the tables of a chapter."""
    chapter = DOCUMENT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]+) \|", chapter, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_the_document_lists_every_field_and_column():
    assert sorted(rows_of("store.json")) == sorted(StoreInfo.model_fields)
    assert sorted(rows_of("Spec")) == sorted(Spec.model_fields)
    assert sorted(rows_of("Receipts")) == sorted(Receipt.model_fields)
    assert all(f'"{name}"' in DOCUMENT.split("\n## Receipts\n")[1] for name in StoredObject.model_fields)
    assert set(PAIR_SCHEMA.names) <= set(rows_of("Pair table"))
    assert {status.name.lower() for status in Status} <= set(re.findall(r"^\| \d \| `(\w+)`", DOCUMENT, re.MULTILINE))
    assert all(f"`{name}`" in DOCUMENT.split("\n## Pixels\n")[1] for name in PIXEL_SCHEMA.names)


def test_the_examples_of_the_document_are_right():
    examples = DOCUMENT.split("\n## Examples\n")[1]
    blocks = re.findall(r"```\w+\n(.*?)```", examples, re.DOTALL)
    spec, pairs = json.loads(blocks[0]), json.loads(blocks[2])
    said = re.search(r"spec hash `(\w{64})`", examples).group(1)
    assert said == hashlib.sha256(blocks[1].strip().encode()).hexdigest() == book.spec_hash(spec) == Spec(**spec).hash
    said = re.search(r"pairs digest `(\w{64})`", examples).group(1)
    assert said == hashlib.sha256(blocks[3].encode()).hexdigest() == book.pairs_digest(pairs)
    assert said == pairs_digest(pa.Table.from_pylist(pairs))
    key, said = re.search(r"The key `([^`]+)` has the key hash (\d+)", examples).groups()
    assert int(said) == book.key_hash(key) == hash_text(key)


def test_the_shard_of_the_documents_example_is_what_zarr_writes(tmp_path):
    block = re.findall(r"```\w+\n(.*?)```", DOCUMENT, re.DOTALL)[-1]
    array = zarr.create_array(
        str(tmp_path / "a"), shape=(2,), shards=(4,), chunks=(2,), dtype="uint8", compressors=None, fill_value=0
    )
    array[...] = [1, 2]
    data = (tmp_path / "a/c/0").read_bytes()
    assert data == bytes.fromhex(block)
    assert re.search(r"has the CRC-32C `(\w{8})`", DOCUMENT).group(1) == f"{google_crc32c.value(data):08x}"
