"""Measure the cost of storing a feature as float16, as int8 with a scale per row, or with rounded mantissas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numcodecs
import numpy as np
import numpy.typing as npt

from .real_features import Features

Form: TypeAlias = Callable[[Features], Features]


def to_int8(rows_ND: Features) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return rows as int8 (N, D) and the scale of each, (N, 1) float32.

    Symmetric: the largest magnitude of a row becomes 127.
    """
    scale_N1 = (np.abs(rows_ND).max(axis=1, keepdims=True) / 127).astype(np.float32)
    # A row that is not ok is all zeros.
    steps_ND = rows_ND / np.where(scale_N1 == 0, 1, scale_N1)
    return np.clip(np.rint(steps_ND), -127, 127).astype(np.int8), scale_N1


def from_int8(values_ND: npt.NDArray[np.int8], scale_N1: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the rows that `to_int8` took, (N, D) float32."""
    return values_ND * scale_N1


def rounded(bits: int) -> Form:
    """Return what rounds float16 to some bits of its mantissa."""
    codec = numcodecs.BitRound(keepbits=bits)
    return lambda rows_ND: np.asarray(codec.decode(codec.encode(rows_ND.astype(np.float16)))).reshape(rows_ND.shape)


FORMS: dict[str, tuple[Form, float | None]] = {
    "float32": (lambda rows_ND: rows_ND, 4),
    "float16": (lambda rows_ND: rows_ND.astype(np.float16), 2),
    "int8, a scale per row": (lambda rows_ND: from_int8(*to_int8(rows_ND)), 1),
    **{f"float16, BitRound {bits}": (rounded(bits), None) for bits in (8, 6, 4)},
}
"""By name: how a row comes back, and bytes of a value (a scale's 4 apart); None where a compressor decides them."""


def cosine_errors(exact_ND: Features, stored_ND: Features) -> npt.NDArray[np.float64]:
    """Return 1 - cos of each row and what is stored of it, (N,): half the squared distance, which cancels nothing."""
    return np.asarray(0.5 * np.sum((_unit(exact_ND) - _unit(stored_ND)) ** 2, axis=1))


def pair_errors(exact_ND: Features, stored_ND: Features) -> npt.NDArray[np.float64]:
    """Return by how much the cosines of all pairs of different rows are off, (N (N - 1) / 2,)."""
    exact_ND, stored_ND = _unit(exact_ND), _unit(stored_ND)
    upper = np.triu_indices(len(exact_ND), k=1)
    return np.asarray(np.abs(exact_ND @ exact_ND.T - stored_ND @ stored_ND.T)[upper])


def _unit(rows_ND: Features) -> npt.NDArray[np.float64]:
    rows_ND = rows_ND.astype(np.float64)
    return np.asarray(rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True))


def errors(features: Mapping[str, Features], form: Form) -> list[str]:
    """Return mean and largest error of a row's cosine with itself, then of the cosines of pairs within a teacher."""
    rows = np.concatenate([cosine_errors(x, form(x)) for x in features.values()])
    pairs = np.concatenate([pair_errors(x, form(x)) for x in features.values()])
    return [f"{value:.1e}" for value in (rows.mean(), rows.max(), pairs.mean(), pairs.max())]
