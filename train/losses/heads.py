"""Heads, small maps from the student's embedding to each teacher's features, and the distances of their predictions.

Heads are trained and not exported. With PHI-S, a head predicts in its coordinates, so that it starts near the mean
feature. Angles are measured in the teacher's own space.

Axes: K rows, E student width, D a teacher's width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from store.format.records import Side

from .phi_s import PhiS

HeadKind = Literal["linear", "mlp"]
Distance = Literal["cos_smooth_l1", "mse", "cos", "angular"]

COSINE_SHARE = 0.9
"""Weight of the cosine in ``cos_smooth_l1``; the rest is the smooth L1 distance, as in Theia."""

_EDGE = 1e-6
"""Distance that cosines keep from 1 and -1, where the slope of the arc cosine is infinite."""


class TeacherHeads(nn.Module):
    """One head per teacher and side that it encodes.

    Args:
        widths: D by teacher.
        texts: those of them that encode texts; the others have a head for images alone.
        embed_dim: E.
        kind: ``linear``, or ``mlp``: norm, linear, GELU, linear.
        seed: of the weights; torch's own random state stays.
    """

    def __init__(
        self, widths: Mapping[str, int], *, texts: Collection[str], embed_dim: int, kind: HeadKind, seed: int
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.image, self.text = (
                nn.ModuleDict({name: _head(embed_dim, widths[name], kind) for name in widths if name in names})
                for names in (widths, texts)
            )

    def forward(self, embeddings_KE: Tensor, teacher: str, side: Side) -> Tensor:
        """Return predicted features of a teacher, (K, D), from unit-norm embeddings."""
        found: Tensor = (self.image if side == "image" else self.text)[teacher](embeddings_KE)
        return found


def _head(embed_dim: int, width: int, kind: HeadKind) -> nn.Module:
    if kind == "linear":
        return nn.Linear(embed_dim, width)
    return nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, width), nn.GELU(), nn.Linear(width, width))


class Coordinates(nn.Module):
    """The coordinates in which one side of one teacher is predicted: those of PHI-S, or its own.

    Args:
        phi_s: None leaves features as they are.
    """

    def __init__(self, phi_s: PhiS | None) -> None:
        super().__init__()
        self._changes = phi_s is not None
        if phi_s is not None:
            # They are in a file of their own, so a checkpoint need not repeat them.
            for name, value in (("mean", phi_s.mean_D), ("matrix", phi_s.matrix_DD), ("inverse", phi_s.inverse)):
                self.register_buffer(name, torch.from_numpy(value).float(), persistent=False)

    def forward(self, features_KD: Tensor) -> Tensor:
        """Return features in these coordinates."""
        if not self._changes:
            return features_KD
        mean_D, matrix_DD = self.get_buffer("mean"), self.get_buffer("matrix")
        return (features_KD - mean_D) @ matrix_DD.T

    def back(self, predicted_KD: Tensor) -> Tensor:
        """Return predictions in the teacher's own space."""
        if not self._changes:
            return predicted_KD
        mean_D, inverse_DD = self.get_buffer("mean"), self.get_buffer("inverse")
        return predicted_KD @ inverse_DD.T + mean_D


def distances(kind: Distance, predicted_KD: Tensor, feature_KD: Tensor, coordinates: Coordinates) -> Tensor:
    """Return (K,) distances.

    Args:
        kind: ``cos`` is 1 - cosine; ``angular`` the squared angle; ``mse`` the mean over dimensions of the squared
            difference in the coordinates of the prediction; ``cos_smooth_l1`` is 0.9 ``cos`` + 0.1 smooth L1.
        predicted_KD: output of a head.
        feature_KD: in the teacher's own space.
    """
    if kind == "mse":
        error_KD: Tensor = predicted_KD - coordinates(feature_KD)
        return error_KD.square().mean(dim=1)
    cosine_K = functional.cosine_similarity(coordinates.back(predicted_KD), feature_KD, dim=1)
    if kind == "angular":
        return torch.arccos(cosine_K.clamp(_EDGE - 1, 1 - _EDGE)).square()
    if kind == "cos":
        return 1 - cosine_K
    smooth_K = functional.smooth_l1_loss(predicted_KD, coordinates(feature_KD), reduction="none").mean(dim=1)
    return COSINE_SHARE * (1 - cosine_K) + (1 - COSINE_SHARE) * smooth_K
