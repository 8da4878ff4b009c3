"""One loop for both stages: what differs is the objective, and whether batches carry targets."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from store.console import progress
from store.errors import TrainingDivergedError

from .config import Optimization
from .model import Student
from .objective import Objective
from .stream import Batch

log = logging.getLogger(__name__)

MAX_LOGIT_SCALE = 100.0
"""CLIP's bound on the multiplier of the cosines; beyond it training becomes unstable."""


def learning_rate(step: int, settings: Optimization) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine to 0."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(model: torch.nn.Module, settings: Optimization) -> torch.optim.AdamW:
    """Return AdamW that decays matrices only, not biases, norms or the logit scale (open_clip's rule)."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=settings.eps)


def fit(
    student: Student,
    stream: Iterable[Batch],
    objective: Objective,
    settings: Optimization,
    *,
    metrics: Path,
    label: str,
) -> None:
    """Train a student in place.

    Args:
        student: left in evaluation mode.
        stream: at least ``settings.steps`` batches.
        objective: what is minimized.
        settings: how.
        metrics: file of JSON lines, one every ``settings.log_every`` steps and one for the last step.
        label: for the progress display.

    Raises:
        TrainingDivergedError: the loss is not finite.
    """
    device = torch.device(settings.device)
    model = student.model.to(device).train()
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (student.mean, student.std))
    if settings.logit_scale_init:
        with torch.no_grad():
            model.logit_scale.fill_(math.log(settings.logit_scale_init))
    optimizer = make_optimizer(model, settings)
    began = time.monotonic()
    with progress(settings.steps, label=label, noun="steps") as advance, metrics.open("w") as lines:
        for batch, _ in zip(stream, range(settings.steps), strict=False):
            lr = learning_rate(batch.step, settings)
            for group in optimizer.param_groups:
                group["lr"] = lr
            pixels_BCHW = (batch.pixels_BHWC.to(device).permute(0, 3, 1, 2).float() / 255 - mean) / std
            tokens_BL = student.tokenize(batch.captions).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                image_BE, text_BE = model.encode_image(pixels_BCHW), model.encode_text(tokens_BL)
            terms = objective(image_BE, text_BE, model.logit_scale.exp(), batch)
            _require_finite(terms, batch)
            optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()
            if settings.grad_clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))
            advance(1)
            if batch.step % settings.log_every == 0 or batch.step == settings.steps - 1:
                seconds = time.monotonic() - began
                _write_line(lines.write, batch, terms, lr=lr, scale=model.logit_scale.exp().item(), seconds=seconds)
    model.eval()


def _require_finite(terms: dict[str, Tensor], batch: Batch) -> None:
    if not bool(torch.isfinite(terms["loss"])):
        values = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
        raise TrainingDivergedError(
            f"step {batch.step}: the loss is not finite ({values}); rows {batch.rows_B[:8].tolist()} and "
            f"{max(0, len(batch.rows_B) - 8)} more",
            hint="lower optimization.lr, or add warmup_steps or grad_clip",
        )


def _write_line(
    write: Callable[[str], int], batch: Batch, terms: dict[str, Tensor], *, lr: float, scale: float, seconds: float
) -> None:
    entry = {"step": batch.step, **{name: value.item() for name, value in terms.items()}}
    write(json.dumps(entry | {"lr": lr, "logit_scale": scale, "seconds": round(seconds, 3)}) + "\n")
