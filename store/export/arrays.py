"""Rows of a store as Parquet and as npz, range by range."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from store.format.arrays import ARRAY_NAMES

from .rows import Rows, Skipped


def write_parquet(rows: Rows, folder: Path, advance: Callable[[int], object]) -> list[Skipped]:
    """Write one ``part-NNNNNN.parquet`` per range: the pair table's columns, then four per teacher.

    ``TEACHER_image`` and ``TEACHER_text`` are lists of fixed size D, zeros where ``TEACHER_status`` is not 1.
    """
    for range_id, start, stop in rows.blocks():
        table = rows.pairs(start, stop)
        strings = [field.name for field in table.schema if field.type == pa.string()]
        for teacher in rows.teachers:
            for name in ARRAY_NAMES:
                values = rows.values(teacher, name, start, stop)
                table = table.append_column(f"{teacher}_{name}", _column(values))
        # Features have no repetitions; a dictionary of them would only be built and thrown away.
        path = folder / f"part-{range_id:06d}.parquet"
        pq.write_table(table, path, compression="zstd", use_dictionary=strings)
        advance(stop - start)
    return []


def _column(values: npt.NDArray[Any]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1]) if values.ndim == 2 else flat


def write_npz(rows: Rows, folder: Path, advance: Callable[[int], object]) -> list[Skipped]:
    """Write ``pairs.jsonl`` and per teacher ``TEACHER.npz`` with row, image, text, similarity and status.

    Line i of the former belongs to position i of the arrays.
    """
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for _, start, stop in rows.blocks():
            file.writelines(json.dumps(pair) + "\n" for pair in rows.pairs(start, stop).to_pylist())
    for teacher in rows.teachers:
        _write_teacher(rows, teacher, folder / f"{teacher}.npz")
    advance(rows.stop - rows.start)
    return []


def _write_teacher(rows: Rows, teacher: str, path: Path) -> None:
    # As np.savez writes it, but array by array and range by range: whole arrays may not fit into memory.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("row.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, np.arange(rows.start, rows.stop))
        for name in ARRAY_NAMES:
            sample = rows.values(teacher, name, rows.start, rows.start + 1)
            header = {
                "descr": np.lib.format.dtype_to_descr(sample.dtype),
                "fortran_order": False,
                "shape": (rows.stop - rows.start, *sample.shape[1:]),
            }
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, header)
                for _, start, stop in rows.blocks():
                    file.write(np.ascontiguousarray(rows.values(teacher, name, start, stop)).tobytes())
