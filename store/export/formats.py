"""Writes a store's rows to files that other programs can read: Parquet, npz, WebDataset."""

from __future__ import annotations

import json
import logging
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from store.errors import ConfigError, StoreError
from store.format.pairs import PAIR_SCHEMA
from store.format.records import Status
from store.read.reader import FeatureStore

from .rows import Rows, Skipped
from .webdataset import write_tars

log = logging.getLogger(__name__)

RECORD = "export.json"
"""Written last; says what the other files hold."""


PUBLIC = ("row", "modality", "split", "width", "height", "license")
"""Columns of the pair table that a public export has: neither texts nor names, paths or digests of images."""

ExportFormat: TypeAlias = Literal["parquet", "npz", "webdataset"]


@dataclass(kw_only=True, frozen=True, slots=True)
class Exported:
    """The result of an export; the content of ``export.json``.

    Attributes:
        store: where it lies; None in a public export.
        rows: the first and the one after the last.
        teachers: by id width, dtype, sides, spec hash, and in how many of the rows there is a feature.
    """

    format: ExportFormat
    store: str | None
    rows: tuple[int, int]
    written: int
    teachers: dict[str, dict[str, Any]]
    files: list[str]
    skipped: list[Skipped]


def write_parquet(rows: Rows, folder: Path, advance: Callable[[int], object]) -> list[Skipped]:
    """Write one ``rows/part-NNNNNN.parquet`` per range: the pair table's columns, then one per array of a teacher.

    They have a folder of their own, so that other programs can take it as one table.
    ``TEACHER_image`` and ``TEACHER_text`` are lists of fixed size D, zeros where ``TEACHER_status`` is not 1. A teacher
    that encodes images alone has neither ``TEACHER_text`` nor ``TEACHER_similarity``.
    """
    for range_id, start, stop in rows.blocks():
        table = rows.pairs(start, stop)
        strings = [field.name for field in table.schema if field.type == pa.string()]
        for teacher in rows.teachers:
            for name in rows.arrays(teacher):
                values = rows.values(teacher, name, start, stop)
                table = table.append_column(f"{teacher}_{name}", _column(values))
        # Features have no repetitions; a dictionary of them would only be built and thrown away.
        path = folder / "rows" / f"part-{range_id:06d}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table, path, compression="zstd", use_dictionary=strings)
        advance(stop - start)
    return []


def _column(values: npt.NDArray[Any]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1]) if values.ndim == 2 else flat


def write_npz(rows: Rows, folder: Path, advance: Callable[[int], object]) -> list[Skipped]:
    """Write ``pairs.jsonl`` and per teacher ``TEACHER.npz`` with row and the teacher's arrays.

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
        for name in rows.arrays(teacher):
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


Writer = Callable[[Rows, Path, Callable[[int], object]], list[Skipped]]
"""Writes rows to a folder, tells how many more are done, and returns those that it left out."""

WRITERS: dict[ExportFormat, Writer] = {"parquet": write_parquet, "npz": write_npz, "webdataset": write_tars}


def export(
    store: FeatureStore,
    *,
    out: Path,
    file_format: ExportFormat,
    teachers: list[str] | None = None,
    rows: tuple[int | None, int | None] = (None, None),
    public: bool = False,
    advance: Callable[[int], object] | None = None,
) -> Exported:
    """Write a store's rows to a new folder, which appears whole or not at all.

    Args:
        out: the folder; must not be there yet, or be empty.
        rows: the first row and the one after the last; the store's ends where None.
        public: write `PUBLIC` of the pairs alone, and not where the store lies.

    Raises:
        ConfigError: the folder holds something, or the format is of images and captions, which are not public.
        StoreError: no such teacher, or no such rows.
        CorpusError: the corpus is not there, though WebDataset needs the images.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already and not empty", hint="give --out a new folder")
    if public and file_format == "webdataset":
        raise ConfigError(
            "--public: WebDataset is made of images and captions, which it leaves out",
            hint="--format parquet or --format npz",
        )
    for name in teachers or []:
        store.spec(name)
    start, stop = _bounds(store, rows)
    chosen = Rows(
        store,
        teachers=store.teachers if teachers is None else teachers,
        start=start,
        stop=stop,
        columns=PUBLIC if public else PAIR_SCHEMA.names,
    )
    partial = out.absolute().with_name(f".{out.absolute().name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    skipped = WRITERS[file_format](chosen, partial, advance or (lambda _: None))
    exported = Exported(
        format=file_format,
        store=None if public else str(store.location),
        rows=(start, stop),
        written=stop - start - len(skipped),
        teachers={name: _teacher(chosen, name) for name in chosen.teachers},
        files=sorted(path.relative_to(partial).as_posix() for path in partial.rglob("*") if path.is_file()),
        skipped=skipped,
    )
    (partial / RECORD).write_text(json.dumps(asdict(exported), indent=1) + "\n")
    if out.exists():
        out.rmdir()
    partial.rename(out)
    return exported


def _bounds(store: FeatureStore, rows: tuple[int | None, int | None]) -> tuple[int, int]:
    start = 0 if rows[0] is None else rows[0]
    stop = store.info.rows if rows[1] is None else rows[1]
    if not 0 <= start < stop <= store.info.rows:
        raise StoreError(f"{store.location}: there are no rows {start}:{stop}; the store has 0:{store.info.rows}")
    return start, stop


def _teacher(rows: Rows, name: str) -> dict[str, Any]:
    spec = rows.store.spec(name)
    committed = rows.store.committed_rows(name)[rows.start : rows.stop]
    status = rows.values(name, "status", rows.start, rows.stop)
    if not committed.all():
        missing = np.count_nonzero(~committed)
        log.warning("%s: %d of the rows are not extracted yet; they are zeros with status 0", name, missing)
    return {
        "width": spec.embed_dim,
        "dtype": rows.values(name, "image", rows.start, rows.start + 1).dtype.name,
        "sides": [*spec.sides],
        "spec_hash": spec.hash,
        "rows_ok": int(np.count_nonzero(status == Status.OK)),
    }
