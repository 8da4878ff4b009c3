"""Weights of the teachers in the feature term.

Axes: B rows of a batch, K those that a teacher teaches, T teachers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from train.data.random_bits import coins
from train.runtime.sending import on_device

Balance = Literal["uniform", "dispersion", "uncertainty", "unic_drop"]

WEIGHT_BOUNDS = (0.2, 5.0)
"""Bounds of a dispersion weight, so that no teacher vanishes or dominates."""


def dispersion_weights(dispersions: Mapping[str, float]) -> dict[str, float]:
    """Return weights inverse to dispersions, of mean 1 before they are clipped to WEIGHT_BOUNDS.

    If a teacher's features lie close together, all its errors are small; the weight compensates for that.
    """
    inverse = {name: 1 / max(dispersion, 1e-12) for name, dispersion in dispersions.items()}
    mean = sum(inverse.values()) / len(inverse)
    return {name: min(max(value / mean, WEIGHT_BOUNDS[0]), WEIGHT_BOUNDS[1]) for name, value in inverse.items()}


class SideBalance(nn.Module):
    """Sums the weighted distances of one side.

    Args:
        balance: ``uniform`` counts all (row, teacher) alike. ``dispersion`` weights teachers by `dispersion_weights`.
            ``uncertainty`` learns a log variance s per teacher and adds exp(-s) d + s (Kendall et al. 2018).
            ``unic_drop`` keeps of each row the teacher with the largest distance, and each other one with probability
            1/2 (teacher dropping of UNIC, Sariyildiz et al. 2024).
        seed: decides which distances are dropped.
    """

    def __init__(self, balance: Balance, teachers: Sequence[str], *, weights: Mapping[str, float], seed: int) -> None:
        super().__init__()
        self._balance, self._teachers, self._weights, self._seed = balance, list(teachers), dict(weights), seed
        self.log_variance: nn.ParameterDict | None = None
        if balance == "uncertainty":
            self.log_variance = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in teachers})

    def forward(
        self,
        distances: Mapping[str, Tensor],
        places: Mapping[str, Tensor],
        *,
        rows_B: npt.NDArray[np.int64],
        step: int,
    ) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of distances, and of weights.

        Args:
            distances: (K,) by teacher.
            places: (K,) by teacher, index of each of its rows in the batch.
            step: of the run; decides with the rows what is dropped.
        """
        kept = self._kept(distances, places, rows_B, step) if self._balance == "unic_drop" else None
        totals, weights = [], []
        for name in self._teachers:
            distance_K, weight_K = distances[name], torch.ones_like(distances[name])
            if kept is not None:
                weight_K = kept[name].to(distance_K.dtype)
            elif self._balance == "dispersion":
                weight_K = weight_K * self._weights[name]
            if self.log_variance is not None:
                variance = self.log_variance[name]
                distance_K = distance_K * torch.exp(-variance) + variance
            totals.append((weight_K * distance_K).sum())
            weights.append(weight_K.sum())
        return torch.stack(totals).sum(), torch.stack(weights).sum()

    def _kept(
        self,
        distances: Mapping[str, Tensor],
        places: Mapping[str, Tensor],
        rows_B: npt.NDArray[np.int64],
        step: int,
    ) -> dict[str, Tensor]:
        some = next(iter(distances.values()))
        table_BT = some.new_full((len(rows_B), len(self._teachers)), -torch.inf)
        for number, name in enumerate(self._teachers):
            table_BT[places[name], number] = distances[name].detach()
        heads_BT = on_device(coins(rows_B, len(self._teachers), seed=self._seed, step=step), some.device)
        heads_BT |= table_BT == table_BT.max(dim=1, keepdim=True).values
        return {name: heads_BT[places[name], number] for number, name in enumerate(self._teachers)}
