"""Pixels deeper than 8 bits become 8 bits by one policy; docs/images.md has it as a table, with reasons.

The policy keeps a ramp a ramp, whatever the numbers of a file mean, and says by a fixed text what was done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from store.errors import PairDecodeError

POLICY = 1
"""Number of the policy, for the notes of a spec; raise it with every change of what pixels become."""

Window: TypeAlias = tuple[float, float] | Literal["minmax"]
"""The values that become black and white, or ``minmax`` for the least and greatest value of each image."""

BAND_VALUES = 1 << 20
"""Values converted at a time, so that their float copy stays small beside the image."""

BY_FILE = "as the file says"
BY_MAXIMUM = "judged by the image's largest value"

UNIT_FLOATS = "float pixels from 0 to 1 are scaled to 0 to 255"
MIN_TO_MAX = "pixels are scaled from the image's least and greatest value to 0 to 255"
NEGATIVE = f"pixels have negative values: {MIN_TO_MAX.removeprefix('pixels are ')}; image.window sets other bounds"
BY_SETTING = "pixels are scaled by image.window"
BY_RANGE = "pixels are scaled by the range that the file states"

Values = npt.NDArray[Any]


@dataclass(kw_only=True, frozen=True, slots=True)
class Stated:
    """A file's own word about its values.

    Attributes:
        bits: significant bits of an unsigned value.
        bounds: the least and the greatest value that it may hold.
    """

    bits: int | None = None
    bounds: tuple[float, float] | None = None


def to_eight_bits(
    values: Values, *, window: Window | None = None, stated: Stated | None = None
) -> tuple[npt.NDArray[np.uint8], str]:
    """Return values of any type as 8 bits, of the same shape, and what was done, as one of few fixed texts.

    Args:
        values: integers or floats.
        window: the pipeline's ``image.window``; it comes before everything else.
        stated: ignored where the values contradict it.

    Raises:
        PairDecodeError: a value is NaN or infinite.
    """
    least, greatest = float(values.min()), float(values.max())
    if not np.isfinite([least, greatest]).all():
        raise PairDecodeError("the image has pixels that are no finite numbers (NaN or infinity)")
    if window is not None:
        low, high = (least, greatest) if window == "minmax" else window
        return between(values, low, high), BY_SETTING
    if least < 0:
        return between(values, least, greatest), NEGATIVE
    stated = stated or Stated()
    if stated.bits is not None and greatest < 1 << stated.bits:
        return _upper_bits(values, stated.bits), _said(stated.bits, BY_FILE)
    if stated.bounds is not None and stated.bounds[0] <= least and greatest <= stated.bounds[1]:
        return between(values, *stated.bounds), BY_RANGE
    if np.issubdtype(values.dtype, np.floating):
        return _floats(values, greatest)
    bits = max(8, int(greatest).bit_length())
    return _upper_bits(values, bits), _said(bits, BY_MAXIMUM)


def between(values: Values, low: float, high: float) -> npt.NDArray[np.uint8]:
    """Return values as 8 bits: ``low`` and less become 0, ``high`` and more 255; all 0 where the two are equal."""
    out = np.zeros(values.shape, np.uint8)
    if high > low:
        for rows in _bands(values):
            out[rows] = np.rint((values[rows].astype(np.float64) - low) / (high - low) * 255).clip(0, 255)
    return out


def _floats(values: Values, greatest: float) -> tuple[npt.NDArray[np.uint8], str]:
    """Floats that are not negative: shares of 1, or numbers of as many bits as the largest needs."""
    if greatest <= 1:
        return between(values, 0, 1), UNIT_FLOATS
    bits = int(np.ceil(greatest)).bit_length()
    return between(values, 0, float(2**bits - 1)), _said(bits, BY_MAXIMUM, kind="float")


def _upper_bits(values: Values, bits: int) -> npt.NDArray[np.uint8]:
    """Return the upper 8 of some bits. Fewer than 8 are left as they are: they are numbers of 8 bits."""
    if np.issubdtype(values.dtype, np.floating):
        return between(values, 0, float(2**bits - 1))
    out = np.empty(values.shape, np.uint8)
    for rows in _bands(values):
        out[rows] = values[rows] >> max(0, bits - 8)
    return out


def _said(bits: int, why: str, *, kind: str = "whole") -> str:
    if kind == "float":
        return f"float pixels of {bits} bits are scaled to 0 to 255, {why}"
    if bits <= 8:
        return f"pixels of 8 bits in a deeper file are kept, {why}"
    return f"pixels of {bits} bits keep their upper 8, {why}"


def _bands(values: Values) -> list[slice]:
    rows = max(1, BAND_VALUES * len(values) // max(1, values.size))
    return [slice(first, first + rows) for first in range(0, len(values), rows)]
