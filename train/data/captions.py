"""Captions by row, in an Arrow array because millions of Python strings would take gigabytes; and their tokens.

Axes: B captions, L the context of the student's tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from store.texts.tokens import CaptionTokenizer


class Captions(Sequence[str]):
    """A sequence of texts that creates Python strings on access; a missing text is empty.

    Args:
        rows: rows of the column to keep, in this order; all if left out.
    """

    def __init__(self, column: pa.ChunkedArray, rows: npt.NDArray[np.int64] | None = None) -> None:
        # 64-bit offsets: with 32 bits, a column of more than 2 GiB could not be one array.
        self._texts = column if isinstance(column, pa.Array) else column.cast(pa.large_string()).combine_chunks()
        self._rows = rows

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self._texts) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> Captions: ...
    def __getitem__(self, row: int | slice) -> str | Captions:
        """Return one text, or some of them."""
        if isinstance(row, slice):
            return self.of(np.arange(len(self))[row])
        place = row if self._rows is None else self._rows[row]
        return self._texts[int(place)].as_py() or ""

    def of(self, rows: npt.NDArray[np.int64]) -> Captions:
        """Return the texts of some rows without copying."""
        return Captions(self._texts, rows if self._rows is None else self._rows[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Token ids of captions, on the host.

    Attributes:
        ids_BL: int64, padded to the context.
        lengths_B: int64, the number of columns without the padding on the right.
    """

    ids_BL: Tensor
    lengths_B: Tensor

    @classmethod
    def of(cls, captions: Sequence[str], tokenizer: CaptionTokenizer) -> Self:
        """Return the tokens of some captions."""
        found = tokenizer(captions)
        return cls(torch.from_numpy(found.ids_BL), torch.from_numpy(found.lengths_B))

    def part(self, begin: int, end: int) -> Self:
        """Return the captions ``begin`` to ``end`` without copying."""
        return type(self)(self.ids_BL[begin:end], self.lengths_B[begin:end])

    def keep(self, keep_B: Tensor) -> Self:
        """Return the captions where ``keep_B`` is True."""
        return type(self)(self.ids_BL[keep_B], self.lengths_B[keep_B])

    def pinned(self) -> Self:
        """Return a copy that a card reads without a wait; the lengths stay as they are."""
        return type(self)(self.ids_BL.pin_memory(), self.lengths_B)
