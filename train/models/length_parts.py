"""Cuts a batch of captions into parts of like length, so that little padding is computed; knows no model and no tensor.

Axes: B captions of a batch, W distinct widths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Part(NamedTuple):
    """Captions that pass the text tower together.

    Attributes:
        rows: of the captions in the order of their lengths.
        columns: of the tokens; what lies beyond them is padding in all of these captions.
    """

    rows: slice
    columns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PartCost:
    """The price of parts on a device, in units of one column of one caption.

    Attributes:
        multiple: columns of a part are rounded up to a multiple of it, which costs the device nothing.
        per_part: what a part costs beside its columns.
        most: largest number of parts.
    """

    multiple: int
    per_part: int
    most: int = 8


def parts_by_length(
    lengths_B: npt.NDArray[np.int64], *, context: int, cost: PartCost
) -> tuple[npt.NDArray[np.int64], list[Part]]:
    """Return the order of captions by length, and the parts of it that cost least together.

    Each caption is in one part, and no part is narrower than its longest caption. With a cost for each column and each
    part, the best cut of sorted captions is found exactly, by dynamic programming over the distinct widths.

    Args:
        lengths_B: columns of each caption that are not padding, 1 to ``context``.
        context: columns with padding.

    Returns:
        The places of the batch in the order of lengths, (B,), and the parts from the shortest to the longest.
    """
    order_B = np.argsort(lengths_B, kind="stable")
    rounded_B = np.minimum(-(-lengths_B[order_B] // cost.multiple) * cost.multiple, context)
    width_W, counts_W = np.unique(rounded_B, return_counts=True)
    ends = np.concatenate([[0], np.cumsum(counts_W)])
    # price[i, j]: widths i to j as one part.
    price = (ends[None, 1:] - ends[:-1, None]) * width_W + cost.per_part
    price = np.where(np.tri(len(width_W), dtype=bool).T, price, np.inf)
    best = np.concatenate([[0.0], np.full(len(width_W), np.inf)])
    begins = []
    totals = []
    for _ in range(min(cost.most, len(width_W))):
        candidates = best[:-1, None] + price
        begins.append(candidates.argmin(axis=0))
        best = np.concatenate([[np.inf], candidates.min(axis=0)])
        totals.append(best[-1])
    edge, parts = len(width_W), []
    for begin in reversed(begins[: int(np.argmin(totals)) + 1]):
        parts.append(Part(slice(int(ends[begin[edge - 1]]), int(ends[edge])), int(width_W[edge - 1])))
        edge = int(begin[edge - 1])
    return order_B, parts[::-1]
