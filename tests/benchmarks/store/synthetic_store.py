"""A store of random features of any size, made fast: no corpus, no models, values without meaning."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store.format.commit import Circumstances, UnitFeatures, commit_unit, register_teacher
from store.format.pair_writer import PairWriter
from store.format.pairs import PAIR_SCHEMA, PairTable
from store.format.records import STORE_KEY, Spec, Status, StoredDtype, StoreInfo, write_record
from store.io.location import Location, locate

MODALITIES = ("ct", "dermatology", "histopathology", "mri", "xray")


def make_store(
    path: Path,
    *,
    rows: int,
    widths: dict[str, int],
    present: dict[str, float],
    range_rows: int = 8192,
    chunk_rows: int = 256,
    stored_dtype: StoredDtype = "float16",
    caption_chars: int = 0,
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
        caption_chars: shortest length of a caption.
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
    location = locate(path)
    info = info.model_copy(update={"parts": _write_pairs(location, info, caption_chars)})
    write_record(location, STORE_KEY, info)
    yield from commit_features(location, info, widths=widths, present=present, stored_dtype=stored_dtype, seed=seed)


def commit_features(
    location: Location,
    info: StoreInfo,
    *,
    widths: dict[str, int],
    present: dict[str, float],
    stored_dtype: StoredDtype = "float16",
    seed: int = 20261123,
) -> Iterator[int]:
    """Commit random features to a store that has none, and yield the stored bytes of each unit."""
    rng = np.random.default_rng(seed)
    circumstances = Circumstances(device="none", batch_size=1, run_id="synthetic", attempt=1, timings_s={}, versions={})
    pairs = PairTable(location, info)
    for teacher, width in widths.items():
        spec = spec_of(teacher, width, stored_dtype=stored_dtype)
        register_teacher(location, spec, info=info)
        drawn = unit_rows(rng, info.range_rows, width), unit_rows(rng, info.range_rows, width)
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


def spec_of(teacher: str, width: int, *, stored_dtype: StoredDtype = "float16") -> Spec:
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
        stored_dtype=stored_dtype,
    )


def unit_rows(rng: np.random.Generator, rows: int, width: int) -> npt.NDArray[np.float32]:
    """Return random rows of unit norm, (rows, width)."""
    drawn = rng.standard_normal((rows, width), dtype=np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def _write_pairs(location: Location, info: StoreInfo, caption_chars: int) -> list[int]:
    writer = PairWriter(location, range_rows=info.range_rows)
    for range_id in range(info.ranges):
        numbers = range(*info.bounds(range_id))
        columns = {
            "key": [f"pair{row:08d}" for row in numbers],
            "uri": ["000.tar"] * len(numbers),
            "caption": [f"finding {row}".ljust(caption_chars, "x") for row in numbers],
            "modality": [MODALITIES[row % len(MODALITIES)] for row in numbers],
            "split": ["train"] * len(numbers),
            "image_sha256": [hashlib.sha256(str(row).encode()).hexdigest() for row in numbers],
        }
        nulls = [None] * len(numbers)
        schema = PAIR_SCHEMA.remove(0)
        arrays = [pa.array(columns.get(field.name, nulls), field.type) for field in schema]
        writer.add(pa.Table.from_arrays(arrays, schema=schema))
    return writer.close()
