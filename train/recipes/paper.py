"""The released stage 2 of MMKD-CLIP; each of its known defects is a named switch of the recipe.

Axes: B batch rows of this rank, K rows with a teacher, E student width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from train.data.targets import TeacherTargets
from train.losses.contrastive import clip_loss, unit
from train.losses.distillation import (
    CORRECTED_INTERACTIVE_SCALE,
    PAPER_INTERACTIVE_SCALE,
    feature_loss,
    interactive_sum,
)
from train.losses.gather import Across
from train.losses.objective import MAX_LOGIT_SCALE, Given, Objective
from train.recipe_sections import PaperRecipe

from .projection import Projection, apply_projection


class _Pairs(NamedTuple):
    """Projected features of both sides, and the index of each row in the batch."""

    image_KE: Tensor
    text_KE: Tensor
    places_K: Tensor


class PaperObjective(Objective):
    """task + feature_weight * feature + interactive_weight * interactive.

    The feature term is the sum of both sides. Its image side uses the rows with a teacher; its text side and the
    interactive term use the rows with a teacher that encodes both sides; the task term uses all rows.
    """

    def __init__(self, recipe: PaperRecipe, projection: Projection) -> None:
        super().__init__()
        self._recipe = recipe
        self._numbers = {teacher: number for number, teacher in enumerate(projection.weights)}
        for teacher, number in self._numbers.items():
            # The projection is in a file of its own, so a checkpoint need not repeat it.
            self.register_buffer(f"weight{number}", projection.weights[teacher], persistent=False)
            self.register_buffer(f"bias{number}", projection.biases[teacher], persistent=False)
        self._fixed_scale = (
            PAPER_INTERACTIVE_SCALE if recipe.interactive_scale == "log" else CORRECTED_INTERACTIVE_SCALE
        )
        self.log_scale: nn.Parameter | None = None
        if recipe.interactive_scale == "learned":
            self.log_scale = nn.Parameter(torch.tensor(math.log(CORRECTED_INTERACTIVE_SCALE)))

    def forward(self, image_BE: Tensor, text_BE: Tensor, logit_scale: Tensor, given: Given) -> dict[str, Tensor]:
        """Return the weighted sum and its three terms."""
        if given.targets is None:
            raise ValueError("the paper's loss needs batches with targets")
        recipe = self._recipe
        across = Across.current(local_loss=recipe.local_loss)
        targets = given.targets.to(image_BE.device)
        projected = [self._projected(name, teacher) for name, teacher in targets.teachers.items()]
        task = clip_loss(image_BE, text_BE, logit_scale, across=across)
        places_K = torch.cat([part.places_K for part in projected])
        feature = feature_loss(image_BE[places_K], torch.cat([part.image_KD for part in projected]), across=across)
        pairs = [_Pairs(part.image_KD, part.text_KD, part.places_K) for part in projected if part.text_KD is not None]
        together = [_Pairs(*map(torch.cat, zip(*pairs, strict=True)))] if pairs else []
        for pair in together:
            feature = feature + feature_loss(text_BE[pair.places_K], pair.text_KE, across=across)
        # With `all`, each teacher's rows are contrasted with its own; with one draw per row they mix, as released.
        groups = pairs if recipe.teacher_sampling == "all" else together
        interactive = self._interactive(image_BE, text_BE, groups, across)
        return {
            "loss": task + recipe.feature_weight * feature + recipe.interactive_weight * interactive,
            "task_loss": task,
            "feature_loss": feature,
            "interactive_loss": interactive,
        }

    def _interactive(self, image_BE: Tensor, text_BE: Tensor, groups: Iterable[_Pairs], across: Across) -> Tensor:
        scale: Tensor | float = self._fixed_scale
        if self.log_scale is not None:
            with torch.no_grad():
                self.log_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))
            scale = self.log_scale.exp()
        total, count = image_BE.new_zeros(()), 0
        for group in groups:
            students = image_BE[group.places_K], text_BE[group.places_K]
            group_total, group_count = interactive_sum(*students, group.image_KE, group.text_KE, scale, across=across)
            total, count = total + group_total, count + group_count
        return across.mean(total, count)

    def _projected(self, name: str, teacher: TeacherTargets) -> TeacherTargets:
        return teacher.mapped(partial(self._side, name), teacher.places_K)

    def _side(self, name: str, features_KD: Tensor) -> Tensor:
        number = self._numbers[name]
        weight, bias = self.get_buffer(f"weight{number}"), self.get_buffer(f"bias{number}")
        projected_KE = apply_projection(features_KD, weight, bias)
        if self._recipe.target_norm == "l2":
            projected_KE = unit(projected_KE)
        if self._recipe.feature_dtype == "bf16":
            projected_KE = projected_KE.bfloat16().to(projected_KE.dtype)
        return projected_KE
