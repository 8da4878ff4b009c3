"""Finds losses and gradients that are not finite, without a wait for the device at each step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from store.errors import TrainingDivergedError
from train.data.batches import Batch
from train.runtime.ranks import Ranks

HINT = (
    "lower optimization.lr, or add warmup_steps or grad_clip, and begin anew with --resume never; the last checkpoint "
    "stays until then"
)


class Divergence:
    """Notes on the device the first loss or gradient that is not finite; from then on no weight changes.

    `slope` makes all gradients NaN after a bad loss, also those of other processes, with which they are averaged. An
    optimizer with a scaled loss skips such a step by itself; `flag` tells the others to do so.
    """

    def __init__(self, device: torch.device, ranks: Ranks) -> None:
        self._ranks = ranks
        self._seen: list[tuple[str, str, list[str]]] = []
        self._loss_at, self._gradient_at = (torch.full((), -1, device=device) for _ in range(2))
        self._values: Tensor | None = None

    def slope(self, terms: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return the gradient with which the backward pass of a loss begins: 1, or NaN from the first bad loss on.

        Args:
            terms: scalars, with ``loss``.
            batch: that they were computed from.
        """
        loss = terms["loss"].detach()
        values = torch.stack([term.detach().to(loss.dtype) for term in terms.values()])
        is_first = ~loss.isfinite() & (self._loss_at < 0)
        self._values = values if self._values is None else torch.where(is_first, values, self._values)
        self._loss_at.masked_fill_(is_first, len(self._seen))
        rows_B = batch.rows_B
        shown = f"rows {rows_B[:8].tolist()} and {max(0, len(rows_B) - 8)} more"
        self._seen.append((f"step {batch.step}", shown, list(terms)))
        return torch.ones_like(loss).masked_fill_(self._loss_at >= 0, math.nan)

    def flag(self, norm: Tensor) -> Tensor:
        """Return what fused optimizers read as ``found_inf``: 1 from the first norm on that is not finite, else 0.

        Args:
            norm: of all gradients, which are the same in all processes.
        """
        is_first = ~norm.isfinite() & (self._gradient_at < 0)
        self._gradient_at.masked_fill_(is_first, len(self._seen) - 1)
        return (self._gradient_at >= 0).float()

    def require_finite(self) -> None:
        """Wait for the device and check all steps since the last call; all processes must call this.

        Raises:
            TrainingDivergedError: a loss or a gradient was not finite; no weight was changed in that step or later.
        """
        loss_at, gradient_at = torch.stack([self._loss_at, self._gradient_at]).tolist()
        mine = None
        if loss_at >= 0 and self._values is not None:
            step, rows, names = self._seen[loss_at]
            values = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, self._values.tolist(), strict=True))
            mine = (0, f"{step}: the loss is not finite ({values}); {rows}")
        elif gradient_at >= 0:
            step, rows, _ = self._seen[gradient_at]
            mine = (1, f"{step}: the gradient is not finite, though the loss is; {rows}")
        self._seen.clear()
        found = [text for text in self._ranks.gather(mine) if text]
        if found:
            raise TrainingDivergedError(min(found)[1], hint=HINT)
