"""The rows of a store that an export writes, read range by range so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import pyarrow as pa

from store.format.arrays import ArrayName, array_names
from store.read.reader import FeatureStore


@dataclass(kw_only=True, frozen=True, slots=True)
class Skipped:
    """A row that is not in an export because its image cannot be read."""

    row: int
    key: str
    reason: str


class Rows:
    """Some rows of a store under some teachers, read range by range.

    Attributes:
        columns: of the pair table that are written.
    """

    def __init__(
        self, store: FeatureStore, *, teachers: list[str], start: int, stop: int, columns: Sequence[str]
    ) -> None:
        self.columns = columns
        self.store, self.teachers, self.start, self.stop = store, teachers, start, stop
        self._status = {name: store.status(name, slice(start, stop)) for name in teachers}
        paired = [name for name in teachers if "similarity" in self.arrays(name)]
        self._similarity = {name: store.similarity(name, slice(start, stop)) for name in paired}

    def arrays(self, teacher: str) -> tuple[ArrayName, ...]:
        """Return the names of the arrays that the store has of a teacher."""
        return array_names(self.store.spec(teacher))

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """Yield number, first row and row after the last of each range, cut to the rows asked for."""
        return self.store.info.blocks(self.start, self.stop)

    def pairs(self, start: int, stop: int) -> pa.Table:
        """Return the columns of the pair table that are written."""
        return self.store.pairs.read(start, stop, self.columns)

    def values(self, teacher: str, name: ArrayName, start: int, stop: int) -> npt.NDArray[Any]:
        """Return one array of a teacher: image and text (rows, D), similarity and status (rows,)."""
        if name == "image" or name == "text":  # noqa: PLR1714 - the type checker narrows by equality alone
            return self.store.read(slice(start, stop), teacher=teacher, side=name)
        known: npt.NDArray[Any] = self._status[teacher] if name == "status" else self._similarity[teacher]
        return known[start - self.start : stop - self.start]
