"""A store of many ranges is read with few open files and few mappings."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import psutil
import pyarrow as pa
import pytest

from store.format.arrays import ARRAY_NAMES, checksum, chunk_checksums, encode_shard, shard_key
from store.format.commit import register_teacher
from store.format.pair_writer import PairWriter
from store.format.pairs import PAIR_SCHEMA, PairTable
from store.format.records import STORE_KEY, Receipt, StoredObject, StoreInfo, receipt_key, record_bytes, write_record
from store.io.location import locate
from store.read import mapped
from store.read.chunks import ChunkReader
from store.read.reader import FeatureStore
from tests.benchmarks.store.synthetic_store import spec_of

TEACHERS, WIDTH, RANGE_ROWS = ("one", "two"), 4, 2


def make(path, ranges):
    """Make a store of many ranges of two rows, without syncing any file; a row's features say its number."""
    rows = ranges * RANGE_ROWS
    writer = PairWriter(locate(path), range_rows=RANGE_ROWS)
    columns = {field.name: pa.nulls(rows, field.type) for field in PAIR_SCHEMA if field.name != "row"}
    writer.add(pa.table(columns | {"key": pa.array([str(row) for row in range(rows)])}))
    shape = {"rows": rows, "range_rows": RANGE_ROWS, "chunk_rows": 1, "parts": writer.close()}
    info = StoreInfo(**shape, created_by="test", corpus_root="/nowhere", corpus={})
    write_record(locate(path), STORE_KEY, info)
    pairs = PairTable(locate(path), info)
    for teacher in TEACHERS:
        spec = spec_of(teacher, WIDTH)
        register_teacher(locate(path), spec, info=info)
        (path / receipt_key(teacher, 0)).parent.mkdir(parents=True)
        for number in range(ranges):
            write_unit(path, spec, number, info, pairs)
    return path


def write_unit(path, spec, number, info, pairs):
    start, stop = info.bounds(number)
    features = np.zeros((RANGE_ROWS, WIDTH), np.float32)
    features[:, 0], features[:, 1] = np.divmod(np.arange(start, stop), 1000)
    status, similarity = np.ones(RANGE_ROWS, np.uint8), np.zeros(RANGE_ROWS, np.float32)
    arrays = {"image": features, "text": -features, "similarity": similarity, "status": status}
    objects = {}
    for name in ARRAY_NAMES:
        key = shard_key(spec.teacher, name, number)
        data = encode_shard(name, arrays[name], stored_dtype="float16", info=info)
        chunks = chunk_checksums(data, spec, rows=RANGE_ROWS, info=info) if name in ("image", "text") else None
        (path / key).parent.mkdir(parents=True, exist_ok=True)
        (path / key).write_bytes(data)
        objects[key] = StoredObject(nbytes=len(data), sha256="00", crc32c=checksum(data), chunk_crc32c=chunks)
    receipt = Receipt(
        teacher=spec.teacher,
        range=number,
        start=start,
        stop=stop,
        spec_hash=spec.hash,
        pairs_digest=pairs.digest(start, stop),
        objects=objects,
        status_counts={"ok": RANGE_ROWS},
        bad_rows=[],
        timings_s={},
        versions={},
        finished="2026-01-01T00:00:00+00:00",
        device="cpu",
        batch_size=1,
        run_id="test",
    )
    (path / receipt_key(spec.teacher, number)).write_bytes(record_bytes(receipt))


READ = """
import json, resource, sys
import numpy as np
from store.read.chunks import Ask, ChunkReader
from store.read.reader import FeatureStore
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
store = FeatureStore(sys.argv[1])
assert store.available().all()
reader, rng = ChunkReader(store), np.random.default_rng(1)
for rows in [*np.array_split(rng.permutation(store.info.rows), 6), rng.permutation(store.info.rows)]:
    found = reader.read_many([Ask(teachers=('one', 'two'), rows_B=rows)])
    for (teacher, side), features in found.items():
        values = features.astype(np.int64) * (1 if side == 'image' else -1)
        assert (values[:, 0] * 1000 + values[:, 1] == rows).all()
print(json.dumps(sum(1 for _ in open('/proc/self/maps'))))
"""


@pytest.mark.parametrize("ranges", [200, pytest.param(3000, marks=pytest.mark.slow)])
def test_many_ranges_are_read_with_64_open_files(tmp_path, ranges):
    path = make(tmp_path / "many", ranges)
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) < 2 * mapped.MAPS + 2000


@pytest.mark.skipif(sys.platform != "linux", reason="files are mapped beside each other on Linux only")
def test_the_bound_of_mapped_files_is_that_of_all_readers_together(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "BUDGET", mapped.Budget(7))
    path, rng = make(tmp_path / "few", 40), np.random.default_rng(2)
    readers = [ChunkReader(FeatureStore(path)) for _ in range(3)]
    for _ in range(4):
        for reader in readers:
            rows = rng.permutation(80)[:50]
            values = reader.read(rows, teacher="one", side="image").astype(np.int64)
            assert (values[:, 0] * 1000 + values[:, 1] == rows).all()
            # Readers of other tests may not be collected yet.
            assert sum(str(path) in entry.path for entry in psutil.Process().memory_maps(grouped=False)) <= 7
    del reader, readers
    assert mapped.BUDGET.left == 7
