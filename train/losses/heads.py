"""Small maps from the student's embedding to each teacher's features; they are trained and not exported.

Axes: K rows, E student width, D a teacher's width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from store.format.arrays import Side

HeadKind = Literal["linear", "mlp"]


class TeacherHeads(nn.Module):
    """One head per teacher and side.

    Args:
        widths: D by teacher.
        embed_dim: E.
        kind: ``linear``, or ``mlp``: norm, linear, GELU, linear.
        seed: of the weights; torch's own random state stays.
    """

    def __init__(self, widths: Mapping[str, int], *, embed_dim: int, kind: HeadKind, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.image, self.text = (
                nn.ModuleDict({name: _head(embed_dim, width, kind) for name, width in widths.items()}) for _ in range(2)
            )

    def forward(self, embeddings_KE: Tensor, teacher: str, side: Side) -> Tensor:
        """Return predicted features of a teacher, (K, D), from unit-norm embeddings."""
        found: Tensor = (self.image if side == "image" else self.text)[teacher](embeddings_KE)
        return found


def _head(embed_dim: int, width: int, kind: HeadKind) -> nn.Module:
    if kind == "linear":
        return nn.Linear(embed_dim, width)
    return nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, width), nn.GELU(), nn.Linear(width, width))
