"""One update of the weights: forward, loss, backward, on the part of the batch that this process has.

Three ways lead to the gradient. Plainly, all pairs at once. In parts (``accumulate``), each with a loss of its own. Or
cached (GradCache, Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup"): all
embeddings are computed in pieces without a graph, the loss of the whole batch gives their gradients, and each piece
passes the towers again, now with a graph, to carry its gradients on to the weights. That gives the gradient of the
whole batch with the memory of a piece, for one forward pass more.

Axes: B batch rows of this process, E student width.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from train.config import Optimization
from train.data.batches import Batch
from train.losses.objective import MAX_LOGIT_SCALE, Given, Objective
from train.models.towers import AUTOCAST, Towers, has_own_statistics, seed_part
from train.runtime.ranks import Ranks
from train.runtime.sending import on_device

from .divergence import Divergence


def make_optimizer(module: nn.Module, settings: Optimization) -> torch.optim.AdamW:
    """Return AdamW that decays matrices only, not biases, norms or the logit scale (open_clip's rule)."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas = settings.beta1, settings.beta2
    # Fused: one kernel for all weights, which can leave them alone by a flag on the device.
    return torch.optim.AdamW(groups, lr=settings.lr, betas=betas, eps=settings.eps, fused=True)


def learning_rate(step: int, settings: Optimization) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine to 0."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * done))


class Updater:
    """Updates a student's weights batch by batch.

    Args:
        objective: on the towers' device.
        ranks: each calls with its own part of the batch.
    """

    def __init__(self, towers: Towers, objective: Objective, settings: Optimization, ranks: Ranks) -> None:
        self._towers, self._objective = towers, objective
        self.settings, self._ranks = settings, ranks
        self._device = ranks.device(settings.device)
        self._shared: nn.Module = towers
        if ranks.world_size > 1:
            # Without a copy of rank 0's statistics at each forward pass, each rank would validate with its own.
            differ = any(has_own_statistics(module) for module in towers.modules())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch 2.6 does not know the option's new name
                self._shared = DistributedDataParallel(towers, gradient_as_bucket_view=True, broadcast_buffers=differ)
        self._own = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        self._all = [parameter for parameter in towers.parameters() if parameter.requires_grad] + self._own
        self.optimizer = make_optimizer(nn.ModuleList([towers.model, objective]), settings)
        self.scaler = torch.amp.GradScaler(self._device.type, enabled=settings.precision == "fp16")
        self.divergence = Divergence(self._device, ranks)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Make one step and return the loss's terms of this process, detached; the host does not wait for the device.

        After a loss or a gradient that is not finite, here or in another process, no step changes a weight;
        ``divergence`` tells of it when it is asked.
        """
        self._towers.columns.clear()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(batch.step, self.settings)
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.gradients(batch)
        if self.settings.grad_clip:
            self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm([part.grad for part in self._all if part.grad is not None])
        if self.settings.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(self._all, self.settings.grad_clip, norm)
        if not self.scaler.is_enabled():
            self.optimizer.found_inf = self.divergence.flag(norm)  # type: ignore[attr-defined]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            self._towers.model.logit_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))
        return terms

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Leave the gradient of the loss in the parameters, averaged over processes, and return the loss's terms."""
        if self.settings.cached_rows:
            terms = self._cached(batch, self.settings.cached_rows)
        else:
            terms = self._in_parts(batch, self.settings.accumulate)
        self._ranks.average(self._own)
        return terms

    def _in_parts(self, batch: Batch, number: int) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        edges = [len(batch.rows_B) * part // number for part in range(number + 1)]
        for part, (begin, end) in enumerate(itertools.pairwise(edges)):
            some = batch if number == 1 else batch.part(begin, end)
            self._seed(batch, part)
            with self._sharing(last=part == number - 1):
                image_BE, text_BE, scale = self._shared(*inputs_of(some, self._device))
                terms = self._terms(image_BE, text_BE, scale, some)
                self._backward(terms, some, parts=number)
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach() / number
        return sums

    def _cached(self, batch: Batch, rows: int) -> dict[str, Tensor]:
        pixels_BHWC, tokens_BL, lengths_B = inputs_of(batch, self._device)
        # A piece has any images and captions of like length, because the towers do not see each other.
        order_B = np.argsort(np.asarray(lengths_B), kind="stable")
        places_B, lengths_B = on_device(order_B, self._device), lengths_B[order_B]
        tokens_BL = tokens_BL[places_B]
        edges = list(itertools.pairwise([*range(0, len(tokens_BL), rows), len(tokens_BL)]))
        # Damaged images may leave processes with different numbers of pieces; each shares gradients in its last one.
        found = []
        with torch.no_grad():
            for part, (begin, end) in enumerate(edges):
                self._seed(batch, part)
                found.append(self._towers(pixels_BHWC[begin:end], tokens_BL[begin:end], lengths_B[begin:end]))
        image_BE, sorted_BE = (torch.cat([piece[side] for piece in found]) for side in (0, 1))
        text_BE = torch.empty_like(sorted_BE).index_copy_(0, places_B, sorted_BE).requires_grad_()
        image_BE.requires_grad_()
        scale = found[0][2].clone().requires_grad_()
        self._seed(batch, len(edges))
        terms = self._terms(image_BE, text_BE, scale, batch)
        self._backward(terms, batch)
        text_gradient_BE = _gradient(text_BE)[places_B]
        for part, (begin, end) in enumerate(edges):
            last = part == len(edges) - 1
            self._seed(batch, part)
            with self._sharing(last=last):
                pieces = self._shared(pixels_BHWC[begin:end], tokens_BL[begin:end], lengths_B[begin:end])
                # The logit scale is one number for all pieces, so its gradient is passed on once.
                carried = [
                    (pieces[0], _gradient(image_BE)[begin:end]),
                    (pieces[1], text_gradient_BE[begin:end]),
                    (pieces[2], _gradient(scale) if last else torch.zeros_like(scale)),
                ]
                torch.autograd.backward([value for value, _ in carried], [gradient for _, gradient in carried])
        return {name: term.detach() for name, term in terms.items()}

    def _backward(self, terms: dict[str, Tensor], batch: Batch, *, parts: int = 1) -> None:
        torch.autograd.backward(self.scaler.scale(terms["loss"] / parts), self.divergence.slope(terms, batch))

    def _terms(self, image_BE: Tensor, text_BE: Tensor, scale: Tensor, batch: Batch) -> dict[str, Any]:
        given = Given(rows_B=batch.rows_B, step=batch.step, targets=batch.targets)
        half = AUTOCAST[self.settings.precision]
        with torch.autocast(self._device.type, half, enabled=self.settings.logits == "autocast"):
            terms: dict[str, Any] = self._objective(image_BE, text_BE, scale, given)
        return terms

    def _seed(self, batch: Batch, part: int) -> None:
        seed_part(self.settings.seed, step=batch.step, rank=self._ranks.rank, part=part, device=self._device)

    @contextlib.contextmanager
    def _sharing(self, *, last: bool) -> Iterator[None]:
        """Share gradients between processes only in the backward pass of the last part."""
        if last or not isinstance(self._shared, DistributedDataParallel):
            yield
            return
        with self._shared.no_sync():
            yield


def inputs_of(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return a batch's pixels and tokens on a device, and the lengths of its captions on the host."""
    pixels_BHWC, tokens = batch.pixels_BHWC.to(device, non_blocking=True), batch.tokens
    return pixels_BHWC, tokens.ids_BL.to(device, non_blocking=True), tokens.lengths_B


def _gradient(tensor: Tensor) -> Tensor:
    # An objective need not use every input, for instance the logit scale.
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
