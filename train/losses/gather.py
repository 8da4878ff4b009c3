"""Joins the batches of several ranks, such that averaged gradients equal those of a single process.

DDP averages the gradients of its ranks. If the mean over ranks of a loss is the loss of the whole batch, its gradient
is that of the whole batch too, provided that the gradient of a row reaches the rank that has the row.

Axes: B rows of this rank, N rows of all ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple, Self

import torch
import torch.distributed as dist
from torch import Tensor


class Gathered(NamedTuple):
    """Rows of all ranks, and the rows whose losses this rank computes.

    Attributes:
        queries: the rows of this rank, or of all ranks.
        every: rows of all ranks, in rank order.
        first: index of the first query in ``every``.
    """

    queries: Tensor
    every: Tensor
    first: int


class Across:
    """The rank of this process among those that train together.

    Args:
        rank: from 0.
        size: number of processes.
        local_loss: each rank computes the losses of its own rows; if false, each computes those of all rows. Value and
            gradient are the same.
    """

    def __init__(self, *, rank: int, size: int, local_loss: bool) -> None:
        self.rank, self.size, self.local_loss = rank, size, local_loss

    @classmethod
    def current(cls, *, local_loss: bool = True) -> Self:
        """Return the rank in torch.distributed, or a single process if that is not in use."""
        if not dist.is_initialized():
            return cls(rank=0, size=1, local_loss=local_loss)
        return cls(rank=dist.get_rank(), size=dist.get_world_size(), local_loss=local_loss)

    def gather(self, parts: Sequence[Tensor]) -> list[Gathered]:
        """Return tensors with the rows of all ranks; gradients flow back to the rank that has a row.

        Args:
            parts: of one dtype and device. Ranks may differ in the number of rows only.
        """
        if self.size == 1:
            return [Gathered(queries=part, every=part, first=0) for part in parts]
        rows_WP = self._rows_of_all(parts)
        widths = [part[:1].numel() if len(part) else part.shape[1:].numel() for part in parts]
        lengths_W = [sum(rows * width for rows, width in zip(rows_P, widths, strict=True)) for rows_P in rows_WP]
        flat = torch.cat([part.reshape(-1) for part in parts])
        padded_L = torch.cat([flat, flat.new_zeros(max(lengths_W) - len(flat))])
        flat_WL: Tensor = _AllGather.apply(padded_L, self.rank, self.size)
        split = [
            flat_L[:length].split([rows * width for rows, width in zip(rows_P, widths, strict=True)])
            for flat_L, length, rows_P in zip(flat_WL, lengths_W, rows_WP, strict=True)
        ]
        found = []
        for number, part in enumerate(parts):
            every = torch.cat([of_rank[number] for of_rank in split]).reshape(-1, *part.shape[1:])
            first = sum(rows_P[number] for rows_P in rows_WP[: self.rank])
            found.append(Gathered(part, every, first) if self.local_loss else Gathered(every, every, 0))
        return found

    def queries(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Return only the ``queries`` of `gather`."""
        return list(parts) if self.local_loss else [gathered.queries for gathered in self.gather(parts)]

    def mean(self, total: Tensor, weight: Tensor | float) -> Tensor:
        """Return a value whose mean over ranks is the sum of totals divided by the sum of weights; 0 for no weight.

        Args:
            total: scalar, of this rank's queries.
            weight: of the same queries, for instance their number; gets no gradient.
        """
        # A number is written by the device: copied there, it would make the host wait.
        weights = weight.detach().to(total, copy=True) if isinstance(weight, Tensor) else total.new_full((), weight)
        if self.size > 1:
            dist.all_reduce(weights)
        return self.size * total / torch.where(weights > 0, weights, torch.ones_like(weights))

    def _rows_of_all(self, parts: Sequence[Tensor]) -> list[list[int]]:
        # Between the hosts: what shapes depend on must not wait for the device.
        rows_P = torch.tensor([len(part) for part in parts])
        rows_WP = [torch.empty_like(rows_P) for _ in range(self.size)]
        dist.all_gather(rows_WP, rows_P)
        found: list[list[int]] = torch.stack(rows_WP).tolist()
        return found


ALONE = Across(rank=0, size=1, local_loss=True)
"""A single process."""


def common_dtype(parts: Sequence[Tensor]) -> torch.dtype:
    """Return the dtype that holds the values of all tensors."""
    return reduce(torch.promote_types, (part.dtype for part in parts))


class _AllGather(torch.autograd.Function):
    """Gathers the flat tensors of all ranks, (W, L); each gradient flows back to its own rank.

    The gradient is all-reduced and then cut, because gloo has no reduce-scatter.
    """

    @staticmethod
    def forward(ctx: Any, flat_L: Tensor, rank: int, size: int) -> Tensor:
        ctx.rank = rank
        flat_WL = [torch.empty_like(flat_L) for _ in range(size)]
        dist.all_gather(flat_WL, flat_L.contiguous())
        return torch.stack(flat_WL)

    @staticmethod
    def backward(ctx: Any, gradient_WL: Tensor) -> tuple[Tensor, None, None]:
        gradient_WL = gradient_WL.contiguous()
        dist.all_reduce(gradient_WL)
        return gradient_WL[ctx.rank], None, None
