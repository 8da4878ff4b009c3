"""Records of results in files.

``results/MODEL/TASK/DATASET.json`` is a record. A Parquet file of the same name holds its predictions, one row per test
item, so that any reader can compute a number again.
"""

from __future__ import annotations

import glob
import io
import json
import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from evaluate.metrics.predictions import Predictions
from store.errors import EvaluationError, FormatVersionError
from store.files import find_paths, sha256_file, write_atomic

from .record import FORMAT, Result, ResultRecord, SkippedRecord

log = logging.getLogger(__name__)

RESERVED = ("id", "cluster")
STRATA_KEY = b"strata"
"""Metadata of the file: the column within whose values a stratified resample draws."""

LONGEST_NAME = 200
"""Bytes of a file name: systems take 255, and a suffix must fit."""


def result_path(folder: Path, *, model: str, task: str, dataset: str) -> Path:
    """Return the path of a result's record.

    Raises:
        EvaluationError: a name cannot be that of a file.
    """
    model_folder, task_folder, file = (_file_name(name) for name in (model, task, dataset))
    return folder / model_folder / task_folder / f"{file}.json"


def _file_name(name: str) -> str:
    quoted = quote(name, safe=" +=@,")
    if not name.strip(".") or len(quoted) > LONGEST_NAME:
        raise EvaluationError(f"{name!r} cannot be a file's name: it is empty, only dots, or too long")
    return quoted


def write_result(folder: Path, record: Result, predictions: Predictions | None = None) -> Path:
    """Write a record and its predictions; the record last, so that its predictions always exist. Return its path.

    Args:
        predictions: required for a result; a skipped one has none.

    Raises:
        EvaluationError: a result comes without its predictions, or with those of other items.
    """
    path = result_path(folder, model=record.model.name, task=record.task, dataset=record.dataset.name)
    table = path.with_suffix(".parquet")
    if isinstance(record, SkippedRecord):
        if predictions is not None:
            raise EvaluationError(f"{path}: a skipped result has no predictions")
        write_atomic(path, record.model_dump_json(indent=1).encode() + b"\n")
        table.unlink(missing_ok=True)
        return path
    if predictions is None or len(predictions.ids) != record.n:
        count = 0 if predictions is None else len(predictions.ids)
        raise EvaluationError(f"{path}: the result is of {record.n} test items, the predictions are of {count}")
    write_atomic(table, _predictions_bytes(predictions))
    complete = record.model_copy(update={"predictions_digest": sha256_file(table)})
    write_atomic(path, complete.model_dump_json(indent=1).encode() + b"\n")
    return path


def read_result(path: Path) -> Result:
    """Read one record.

    Raises:
        FormatVersionError: it was written in a format that this program does not read.
        EvaluationError: it is no record, or a part of it is missing or wrong.
    """
    hint = f"move {path} away and evaluate that model again"
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise EvaluationError(f"{path}: not a record of a result: {error}", hint=hint) from None
    if not isinstance(content, dict) or "format" not in content:
        raise EvaluationError(f"{path}: not a record of a result: it names no format", hint=hint)
    if content["format"] != FORMAT:
        raise FormatVersionError(
            f"{path}: written in result format {content['format']!r}, this program reads format {FORMAT}",
            hint="evaluate that model again, or use the program that wrote it",
        )
    kind = SkippedRecord if "skipped" in content else ResultRecord
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc'])) or 'record'}: {one['msg']}" for one in error.errors()]
        raise EvaluationError(f"{path}: not a whole record: {'; '.join(problems)}", hint=hint) from None


def read_results(folder: Path) -> list[Result]:
    """Read all records of a folder, by model, task and dataset; other JSON files are passed over with a warning.

    Raises:
        EvaluationError: there is none, or one is damaged.
    """
    paths = sorted(find_paths(folder, "*/*/*.json"))
    records = [path for path in paths if is_record(path)]
    others = sorted({*paths} - {*records})
    if others:
        log.warning("%s: passed over %d JSON files that are no results, such as %s", folder, len(others), others[0])
    if not records:
        raise EvaluationError(f"{folder}: holds no results", hint="python -m evaluate run makes them")
    return [read_result(path) for path in records]


def is_record(path: Path) -> bool:
    """Return whether a file calls itself a record, of any format version, and lies where that record belongs."""
    try:
        content = json.loads(path.read_bytes())
        names = {"model": content["model"]["name"], "task": content["task"], "dataset": content["dataset"]["name"]}
        return "format" in content and path.parts[-3:] == result_path(Path(), **names).parts[-3:]
    except (ValueError, KeyError, TypeError, RecursionError, EvaluationError):
        return False


def results_on(folder: Path, *, task: str, dataset: str) -> list[Result]:
    """Read the records of all models for one task on one dataset, by model; an empty list if there is none."""
    file = result_path(folder, model="any", task=task, dataset=dataset)
    return [read_result(path) for path in sorted(find_paths(folder, f"*/{file.parent.name}/{glob.escape(file.name)}"))]


def read_predictions(folder: Path, record: ResultRecord) -> Predictions:
    """Read the predictions of a result.

    Raises:
        EvaluationError: they are missing, damaged, or not those that the record was written with.
    """
    path = result_path(folder, model=record.model.name, task=record.task, dataset=record.dataset.name)
    path = path.with_suffix(".parquet")
    hint = "evaluate that model again"
    if not path.is_file():
        raise EvaluationError(f"{path}: the predictions of a result are missing", hint=hint)
    if sha256_file(path) != record.predictions_digest:
        raise EvaluationError(f"{path}: not the predictions that the record beside it was written with", hint=hint)
    return _read_predictions_file(path)


def _predictions_bytes(predictions: Predictions) -> bytes:
    """Return predictions as a Parquet file: id, cluster (null without clusters), and a column per array."""
    clusters = predictions.clusters
    cluster = pa.nulls(len(predictions.ids), pa.string()) if clusters is None else pa.array(clusters, pa.string())
    columns = {"id": pa.array(predictions.ids, pa.string()), "cluster": cluster}
    for name, values in predictions.columns.items():
        if name in RESERVED:
            raise EvaluationError(f"a column of predictions cannot be called {name!r}")
        columns[name] = _column(name, np.ascontiguousarray(values))
    table = pa.table(columns)
    if predictions.strata is not None:
        table = table.replace_schema_metadata({STRATA_KEY: predictions.strata.encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _column(name: str, values: npt.NDArray[Any]) -> Any:
    if values.ndim == 1:
        return pa.array(values)
    if values.ndim != 2 or not values.shape[1]:
        raise EvaluationError(
            f"column {name!r} of the predictions has the shape {values.shape}; expected (N,) or (N, C)"
        )
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _read_predictions_file(path: Path) -> Predictions:
    try:
        table = pq.read_table(path)
        ids, clusters = (table.column(name).to_pylist() for name in RESERVED)
    except (pa.ArrowInvalid, KeyError) as error:
        raise EvaluationError(f"{path}: not a file of predictions: {error}") from None
    strata = (table.schema.metadata or {}).get(STRATA_KEY)
    return Predictions(
        ids=ids,
        clusters=None if clusters[0] is None else clusters,
        columns={name: _array(table.column(name)) for name in table.column_names if name not in RESERVED},
        strata=None if strata is None else strata.decode(),
    )


def _array(column: Any) -> npt.NDArray[Any]:
    joined = column.combine_chunks()
    if pa.types.is_fixed_size_list(joined.type):
        flat: npt.NDArray[Any] = joined.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(-1, joined.type.list_size)
    if pa.types.is_string(joined.type):
        return np.array(joined.to_pylist())
    array: npt.NDArray[Any] = joined.to_numpy(zero_copy_only=False)
    return array
