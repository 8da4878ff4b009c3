"""Predictions as Parquet: one row per test item, so that any reader can compute a number again."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from evaluate.metrics.predictions import Predictions
from store.errors import EvaluationError

RESERVED = ("id", "cluster")
STRATA_KEY = b"strata"
"""Metadata of the file: the column within whose values a stratified resample draws."""


def predictions_bytes(predictions: Predictions) -> bytes:
    """Return predictions as a Parquet file: id, cluster (null without clusters), and a column per array.

    Raises:
        EvaluationError: an array has another name or number of axes than a column can have.
    """
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


def read_predictions_file(path: Path) -> Predictions:
    """Read what ``predictions_bytes`` made.

    Raises:
        EvaluationError: it is no such file.
    """
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
