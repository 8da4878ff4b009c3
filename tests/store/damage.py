"""Real damage to a store, at a folder or at a URL."""

from __future__ import annotations

import hashlib
import io
import json

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq

from store.format.arrays import encode_shard, shard_key
from store.format.records import receipt_key

TABLE = "pairs/part-00000.parquet"


def contents(location):
    """Every object of a store; the lock's file and what a repair took away are no part of it."""
    return {key: location.read(key) for key, _ in location.list() if not key.startswith(("writer.lock", "lost+found/"))}


def taken_away(location):
    """Return what repairs took away, by its key in the store."""
    return {key.split("/", 2)[2]: location.read(key) for key, _ in location.list("lost+found")}


def copy(source, target):
    for key, data in contents(source).items():
        target.write(key, data)
    return target


def flip(location, key):
    data = bytearray(location.read(key))
    data[len(data) // 3] ^= 0x10
    location.write(key, bytes(data))


def truncate(location, key):
    location.write(key, location.read(key)[:-7])


def edit_json(location, key, **changes):
    location.write(key, json.dumps({**json.loads(location.read(key)), **changes}).encode())


def edit_pairs(location, *, at, **changes):
    rows = pq.read_table(io.BytesIO(location.read(TABLE))).to_pylist()
    rows[at] |= changes
    write_pairs(location, rows)


def write_pairs(location, rows):
    schema = pq.read_schema(io.BytesIO(location.read(TABLE))).remove_metadata()
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, row_group_size=4)
    location.write(TABLE, buffer.getvalue())


def append_pairs(location, count):
    rows = pq.read_table(io.BytesIO(location.read(TABLE))).to_pylist()
    rows += [{**rows[-1], "row": len(rows) + n, "key": f"more{n}", "caption": f"more {n}"} for n in range(count)]
    write_pairs(location, rows)
    edit_json(location, "store.json", rows=len(rows), parts=[len(rows)])


def commit_bytes(location, teacher, name, range_id, data):
    """Let a unit's receipt vouch for other bytes, as a writer with a fault would."""
    key, receipt = shard_key(teacher, name, range_id), receipt_key(teacher, range_id)
    location.write(key, data)
    objects = json.loads(location.read(receipt))["objects"]
    objects[key] = {"nbytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_json(location, receipt, objects=objects)


def commit_values(location, name, range_id, values, info):
    data = encode_shard(name, values, stored_dtype="float16", info=info)
    commit_bytes(location, "alpha", name, range_id, data)


def as_file(data):
    return pa.BufferReader(data)


def with_checksum(index):
    """Return a shard's index as it is stored."""
    data = index.astype("<u8").tobytes()
    return data + google_crc32c.value(data).to_bytes(4, "little")


def as_format_1(location):
    """Make a store what it would be in format 1: its receipts have no checksums, store.json names no parts."""
    for key in [key for key, _ in location.list("receipts")]:
        objects = json.loads(location.read(key))["objects"]
        bare = {name: {"nbytes": stored["nbytes"], "sha256": stored["sha256"]} for name, stored in objects.items()}
        edit_json(location, key, version=1, objects=bare)
    info = {name: value for name, value in json.loads(location.read("store.json")).items() if name != "parts"}
    location.write("store.json", json.dumps({**info, "version": 1}).encode())
    return location
