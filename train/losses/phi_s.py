"""PHI-S: a linear change of coordinates after which each dimension of a teacher's features has standard deviation 1.

Ranzinger et al. 2024, "PHI-S: Distribution Balancing for Label-Free Multi-Teacher Distillation": rotate to the
principal axes, then by a Hadamard matrix, which spreads the variance evenly over the dimensions, and scale by one
number. Ratios of distances are kept, unlike with per-dimension scaling or whitening.

Axes: N rows, D a teacher's width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class PhiS:
    """The map ``y = matrix @ (a - mean)``; ``matrix @ matrix.T`` is a multiple of the identity.

    Attributes:
        mean_D: mean of the fitted features.
        matrix_DD: a rotation times a number.
    """

    mean_D: Floats
    matrix_DD: Floats

    @property
    def inverse(self) -> Floats:
        """The inverse matrix: ``a = mean + inverse @ y``, (D, D)."""
        # A rotation's inverse is its transpose.
        back_DD: Floats = self.matrix_DD.T * (len(self.matrix_DD) / np.square(self.matrix_DD).sum())
        return back_DD


def fit_phi_s(features_ND: NDArray[np.floating[Any]]) -> PhiS:
    """Fit the map to features.

    Raises:
        ValueError: no Hadamard matrix of that width is known, or all features are equal.
    """
    features_ND = features_ND.astype(np.float64)
    mean_D: Floats = features_ND.mean(axis=0)
    centred_ND = features_ND - mean_D
    variances_D, axes_DD = np.linalg.eigh(centred_ND.T @ centred_ND / len(features_ND))
    if not variances_D.mean() > 0:
        raise ValueError(f"{len(features_ND)} features do not vary, so that they cannot be standardised")
    matrix_DD = hadamard(features_ND.shape[1]) @ axes_DD.T / np.sqrt(variances_D.mean())
    return PhiS(mean_D=mean_D, matrix_DD=matrix_DD)


def hadamard(width: int) -> Floats:
    """Return a Hadamard matrix divided by the square root of its width: a rotation with entries of equal size.

    Sylvester's doubling of a matrix of 1, or of Paley's for a prime that is 3 modulo 4, as 768 = 64 * (11 + 1).

    Raises:
        ValueError: neither gives that width.
    """
    most = (width & -width).bit_length() - 1
    for doublings in range(most, -1, -1):
        core = width >> doublings
        if core == 1 or _has_paley_matrix(core - 1):
            matrix: Floats = np.ones((1, 1)) if core == 1 else _paley(core - 1)
            for _ in range(doublings):
                matrix = np.block([[matrix, matrix], [matrix, -matrix]])
            rotation: Floats = matrix * width**-0.5
            return rotation
    raise ValueError(f"no Hadamard matrix of width {width} is known here; 512, 768 and powers of 2 have one")


def _paley(prime: int) -> Floats:
    """Return Paley's first construction, of width prime + 1."""
    squares = set((np.arange(1, prime) ** 2 % prime).tolist())
    character = np.array([0.0] + [1.0 if number in squares else -1.0 for number in range(1, prime)])
    difference = np.subtract.outer(np.arange(prime), np.arange(prime)) % prime
    skew = np.zeros((prime + 1, prime + 1))
    skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1.0, -1.0, character[difference]
    return skew + np.eye(prime + 1)


def _has_paley_matrix(number: int) -> bool:
    """Return whether a number is a prime that is 3 modulo 4."""
    return number % 4 == 3 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
