"""A column of few distinct texts, such as the modality, as numbers; one text per row takes a second at 2.9 M rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store.errors import StoreError, StoreNotFoundError
from store.format.pairs import UNREADABLE_HINT, part_keys
from store.format.records import StoreInfo
from store.io.fetching import fetch_all
from store.io.location import Location
from store.io.object_file import open_parquet, reading


@dataclass(kw_only=True, frozen=True, slots=True)
class Categories:
    """Texts of N rows.

    Attributes:
        codes_N: (N,) int32, place in ``names``; -1 where there is no text.
        names: the distinct texts, sorted; each occurs.
    """

    codes_N: npt.NDArray[np.int32]
    names: tuple[str, ...]

    def texts(self) -> npt.NDArray[np.object_]:
        """Return (N,) the texts, None where there is none."""
        return np.array([*self.names, None], dtype=object)[self.codes_N]

    def among(self, names: Iterable[str]) -> npt.NDArray[np.bool_]:
        """Return (N,) whether each row's text is one of some."""
        wanted = {*names}
        # Code -1 picks the last place.
        return np.array([*(name in wanted for name in self.names), False])[self.codes_N]


def categorize(texts: Sequence[str | None] | pa.Array | pa.ChunkedArray) -> Categories:
    """Return texts as categories."""
    column = texts if isinstance(texts, pa.Array | pa.ChunkedArray) else pa.array(texts, pa.string())
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    if isinstance(column, pa.ChunkedArray):
        column = column.unify_dictionaries().combine_chunks()
        column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    found = column.dictionary.to_pylist()
    codes_N = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    # The dictionary may hold texts of rows beyond these.
    occurs = np.bincount(codes_N + 1, minlength=len(found) + 1)[1:] > 0
    names = sorted(name for name, used in zip(found, occurs, strict=True) if used)
    place = {name: code for code, name in enumerate(names)}
    new_codes = np.array([*(place.get(name, -1) for name in found), -1], np.int32)
    return Categories(codes_N=new_codes[codes_N], names=tuple(names))


def read_categories(location: Location, column: str, info: StoreInfo) -> Categories:
    """Read one text column of a store's pair table, and nothing else of it.

    Raises:
        StoreNotFoundError: there is no pair table.
        StoreError: it cannot be read, or has fewer rows than ``info`` says.
    """
    keys = part_keys(location, info)

    def read(key: str) -> pa.ChunkedArray:
        with (
            reading(f"{location}: the pair table", hint=UNREADABLE_HINT),
            open_parquet(location, key, read_dictionary=[column], check_pages=True) as part,
        ):
            return part.read([column], use_threads=False)[column]

    try:
        parts = fetch_all(read, keys)
    except FileNotFoundError as error:
        raise StoreNotFoundError(f"{location}: the pair table lacks a part, {error} is missing") from error
    whole = pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.dictionary(pa.int32(), pa.string()))
    found = [len(part) for part in parts]
    if len(whole) < info.rows or info.parts not in (None, found):
        raise StoreError(f"{location}: the pair table has {len(whole)} rows, store.json says {info.rows}")
    return categorize(whole.slice(0, info.rows))
