"""A store of random features of any size, made fast: no corpus, no models, values without meaning."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from store.format.commit import Circumstances, UnitFeatures, commit_unit, register_teacher
from store.format.pairs import PAIR_SCHEMA, PairTable
from store.format.records import STORE_KEY, Spec, Status, StoreInfo, write_record
from store.io.location import locate

MODALITIES = ("ct", "dermatology", "histopathology", "mri", "xray")


def make_store(
    path: Path,
    *,
    rows: int,
    widths: dict[str, int],
    present: dict[str, float],
    range_rows: int = 8192,
    chunk_rows: int = 256,
    seed: int = 20261123,
) -> Iterator[int]:
    """Make a store, and yield the stored bytes of each unit when it is committed.

    Args:
        path: a folder that is not there yet.
        rows: N.
        widths: D by teacher.
        present: share of rows that have a feature, by teacher.
        range_rows: R.
        chunk_rows: C.
        seed: of everything.
    """
    info = StoreInfo(
        rows=rows,
        range_rows=range_rows,
        chunk_rows=chunk_rows,
        created_by="tests.benchmarks.store.synthetic_store",
        corpus_root="/nowhere",
        corpus={"files": {}, "qualify_keys": False},
    )
    _write_pairs(path, info)
    location = locate(path)
    write_record(location, STORE_KEY, info)
    rng = np.random.default_rng(seed)
    circumstances = Circumstances(device="none", batch_size=1, run_id="synthetic", attempt=1, timings_s={}, versions={})
    pairs = PairTable(location, rows=rows)
    for teacher, width in widths.items():
        spec = spec_of(teacher, width)
        register_teacher(location, spec, info=info)
        drawn = unit_rows(rng, range_rows, width), unit_rows(rng, range_rows, width)
        for range_id in range(info.ranges):
            start, stop = info.bounds(range_id)
            # Another part of the same rows: drawing them anew would take longer than committing them.
            image, text = (np.roll(features, range_id, axis=0)[: stop - start] for features in drawn)
            there = rng.random(stop - start) < present[teacher]
            status = np.where(there, Status.OK, Status.NOT_APPLICABLE).astype(np.uint8)
            receipt = commit_unit(
                location,
                info=info,
                spec=spec,
                range_id=range_id,
                pairs=pairs.read(start, stop),
                features=UnitFeatures(image=image, text=text, status=status, reasons={}),
                circumstances=circumstances,
            )
            yield sum(stored.nbytes for stored in receipt.objects.values())


def spec_of(teacher: str, width: int) -> Spec:
    """Return the spec of a teacher that does not exist."""
    return Spec(
        teacher=teacher,
        embed_dim=width,
        weights_sha256=None,
        architecture={},
        preprocessing={},
        tokenizer={},
        output="random",
        compute_dtype="float32",
    )


def unit_rows(rng: np.random.Generator, rows: int, width: int) -> npt.NDArray[np.float32]:
    """Return random rows of unit norm, (rows, width)."""
    drawn = rng.standard_normal((rows, width), dtype=np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def _write_pairs(path: Path, info: StoreInfo) -> None:
    (path / "pairs").mkdir(parents=True)
    with pq.ParquetWriter(path / "pairs/part-00000.parquet", PAIR_SCHEMA, compression="zstd") as writer:
        for range_id in range(info.ranges):
            numbers = range(*info.bounds(range_id))
            columns = {
                "row": list(numbers),
                "key": [f"pair{row:08d}" for row in numbers],
                "uri": ["000.tar"] * len(numbers),
                "caption": [f"finding {row}" for row in numbers],
                "modality": [MODALITIES[row % len(MODALITIES)] for row in numbers],
                "split": ["train"] * len(numbers),
                "image_sha256": [hashlib.sha256(str(row).encode()).hexdigest() for row in numbers],
            }
            arrays = [
                pa.array(columns[field.name], field.type)
                if field.name in columns
                else pa.nulls(len(numbers), field.type)
                for field in PAIR_SCHEMA
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=PAIR_SCHEMA), row_group_size=info.range_rows)
