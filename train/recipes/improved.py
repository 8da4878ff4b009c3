"""Distillation from all available teachers of each row at once, each in a space of its own.

task + feature_weight * feature + relational_weight * relational + interactive_weight * interactive. In the feature
term, a head per teacher and side predicts the teacher's features from the student's embedding. The relational term has
no heads: among a teacher's rows, each image should be as similar to each text as it is for the teacher. The interactive
term contrasts a head's prediction with the features of the other side. Both need teachers that encode both sides; the
others teach in the image side of the feature term alone.

Axes: B batch rows of this rank, K those that a teacher teaches, N rows of all ranks, E student width, D teacher width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from store.errors import ConfigError
from store.format.records import SIDES, Side
from train.data.targets import Targets
from train.losses.balance import SideBalance, dispersion_weights
from train.losses.contrastive import contrast, contrast_sum, no_autocast, unit
from train.losses.distillation import CORRECTED_INTERACTIVE_SCALE, relation_sum
from train.losses.gather import Across, Gathered, common_dtype
from train.losses.heads import Coordinates, TeacherHeads, distances
from train.losses.objective import MAX_LOGIT_SCALE, Given, Objective
from train.recipe_sections import ImprovedRecipe

from .teacher_statistics import TeacherStatistics

LOG_SCALE = math.log(CORRECTED_INTERACTIVE_SCALE)
"""Initial value of the learned log scales of the interactive term."""

PAIRED_SIDES: tuple[tuple[Side, Side], ...] = (("image", "text"), ("text", "image"))


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherFacts:
    """Facts about a teacher that an objective needs.

    Attributes:
        logit_scale: multiplier of the teacher's cosines; None if unknown, which the relational term refuses.
        sides: that the teacher encodes.
    """

    width: int
    logit_scale: float | None
    sides: tuple[Side, ...] = SIDES


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Seen:
    """Intermediate values that the terms of one batch share.

    Attributes:
        places, features: by teacher; features by teacher and side, (K, D).
        gathered: the student's embeddings by side.
        teachers: by teacher that encodes both sides, and side, the features of all ranks; empty if no term needs them.
        teacher_places: by such a teacher, the indices of its rows in the batch of all ranks.
    """

    places: Mapping[str, Tensor]
    features: Mapping[tuple[str, Side], Tensor]
    gathered: Mapping[Side, Gathered]
    teachers: Mapping[tuple[str, Side], Gathered]
    teacher_places: Mapping[str, Tensor]


class ImprovedObjective(Objective):
    """The improved recipe.

    Args:
        teachers: in the order of the targets.
        embed_dim: E.
        statistics: needed by PHI-S and dispersion weights.
        seed: of the heads' weights and of dropped teachers.
    """

    def __init__(
        self,
        recipe: ImprovedRecipe,
        teachers: Mapping[str, TeacherFacts],
        *,
        embed_dim: int,
        statistics: TeacherStatistics | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._recipe = recipe
        self._of = {side: [name for name, facts in teachers.items() if side in facts.sides] for side in SIDES}
        self._paired = self._of["text"]
        paired = {name: teachers[name] for name in self._paired}
        self._scales = _known_scales(paired) if recipe.relational_weight else {}
        widths = {name: facts.width for name, facts in teachers.items()} if recipe.uses_heads else {}
        self.heads = TeacherHeads(widths, texts=self._paired, embed_dim=embed_dim, kind=recipe.heads, seed=seed)
        found = {} if statistics is None else dict(statistics.sides)
        self._coordinates = {
            (name, side): Coordinates(found[name, side].phi_s if recipe.phi_s else None)
            for name in widths
            for side in teachers[name].sides
        }
        self.coordinates = nn.ModuleList(self._coordinates.values())
        self.balances = nn.ModuleDict()
        for side, names in self._of.items() if recipe.feature_weight else ():
            weights = {}
            if recipe.balance == "dispersion" and names:
                weights = dispersion_weights({name: found[name, side].dispersion for name in names})
            if names:
                self.balances[side] = SideBalance(recipe.balance, names, weights=weights, seed=seed)
        contrasted = self._paired if recipe.interactive_weight else []
        self.log_scales = nn.ParameterDict({name: nn.Parameter(torch.tensor(LOG_SCALE)) for name in contrasted})

    def forward(self, image_BE: Tensor, text_BE: Tensor, logit_scale: Tensor, given: Given) -> dict[str, Tensor]:
        """Return the weighted sum and its terms of positive weight."""
        if given.targets is None:
            raise ValueError("the improved loss needs batches with targets")
        across, recipe = Across.current(), self._recipe
        student: dict[Side, Tensor] = {"image": unit(image_BE), "text": unit(text_BE)}
        seen = self._see(student, given.targets.to(image_BE.device), across)
        task = contrast(seen.gathered["image"], seen.gathered["text"], logit_scale, across=across)
        terms, loss = {"task_loss": task}, task
        with no_autocast(image_BE):
            predicted = self._predicted(student, seen) if recipe.uses_heads else {}
            if recipe.feature_weight:
                terms["feature_loss"] = self._feature_loss(predicted, seen, given, across)
                loss = loss + recipe.feature_weight * terms["feature_loss"]
        if recipe.relational_weight:
            terms["relational_loss"] = self._relational_loss(student, logit_scale, seen, across)
            loss = loss + recipe.relational_weight * terms["relational_loss"]
        if recipe.interactive_weight:
            terms["interactive_loss"] = self._interactive_loss(predicted, seen, across)
            loss = loss + recipe.interactive_weight * terms["interactive_loss"]
        return {"loss": loss, **terms}

    def _see(self, student: Mapping[Side, Tensor], targets: Targets, across: Across) -> _Seen:
        gathered: dict[Side, Gathered] = dict(zip(SIDES, across.gather(list(student.values())), strict=True))
        places = {name: targets.teachers[name].places_K for name in self._of["image"]}
        features: dict[tuple[str, Side], Tensor] = {}
        for name in places:
            features[name, "image"] = targets.teachers[name].image_KD
            text_KD = targets.teachers[name].text_KD
            if text_KD is not None:
                features[name, "text"] = text_KD
        teachers: dict[tuple[str, Side], Gathered] = {}
        teacher_places: dict[str, Tensor] = {}
        if self._paired and (self._recipe.relational_weight or self._recipe.interactive_weight):
            compared = {key: part for key, part in features.items() if key[0] in self._paired}
            stored = common_dtype(list(compared.values()))
            every = across.gather([part.to(stored) for part in compared.values()])
            teachers = dict(zip(compared, every, strict=True))
            first = gathered["image"].first
            everywhere = across.gather([places[name] + first for name in self._paired])
            teacher_places = {name: found.every for name, found in zip(self._paired, everywhere, strict=True)}
        dtype = student["image"].dtype
        return _Seen(
            places=places,
            features={key: part.to(dtype) for key, part in features.items()},
            gathered=gathered,
            teachers={key: Gathered(g.queries.to(dtype), g.every.to(dtype), g.first) for key, g in teachers.items()},
            teacher_places=teacher_places,
        )

    def _predicted(self, student: Mapping[Side, Tensor], seen: _Seen) -> dict[tuple[str, Side], Tensor]:
        """Return the heads' predictions, also of teachers without a row, whose heads thus get a gradient of 0."""
        return {(name, side): self.heads(student[side][seen.places[name]], name, side) for name, side in seen.features}

    def _feature_loss(
        self,
        predicted: Mapping[tuple[str, Side], Tensor],
        seen: _Seen,
        given: Given,
        across: Across,
    ) -> Tensor:
        sides = []
        for side in (side for side in SIDES if side in self.balances):
            found = {
                name: distances(
                    self._recipe.distance,
                    predicted[name, side],
                    seen.features[name, side],
                    self._coordinates[name, side],
                )
                for name in self._of[side]
            }
            total, weight = self.balances[side](found, seen.places, rows_B=given.rows_B, step=given.step)
            sides.append(across.mean(total, weight))
        return torch.stack(sides).mean()

    def _relational_loss(
        self, student: Mapping[Side, Tensor], logit_scale: Tensor, seen: _Seen, across: Across
    ) -> Tensor:
        total, count = logit_scale.new_zeros(()), 0
        for name, every_K in seen.teacher_places.items():
            scale, places_K = self._scales[name], seen.places[name]
            for one, other in PAIRED_SIDES:
                ours = logit_scale * student[one][places_K] @ seen.gathered[other].every[every_K].T
                theirs = scale * seen.features[name, one] @ seen.teachers[name, other].every.T
                total = total + relation_sum(ours, theirs)
                count += len(places_K)
        return across.mean(total, count)

    def _interactive_loss(self, predicted: Mapping[tuple[str, Side], Tensor], seen: _Seen, across: Across) -> Tensor:
        total, count = next(iter(predicted.values())).new_zeros(()), 0
        for name, log_scale in self.log_scales.items():
            with torch.no_grad():
                log_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))
            for one, other in PAIRED_SIDES:
                with no_autocast(predicted[name, one]):
                    query_KD = unit(self._coordinates[name, one].back(predicted[name, one]))
                candidates = seen.teachers[name, other]
                total = total + contrast_sum(query_KD, candidates.every, log_scale.exp(), first=candidates.first)
                count += len(query_KD)
        return across.mean(total, count)


def _known_scales(teachers: Mapping[str, TeacherFacts]) -> dict[str, float]:
    found = {name: facts.logit_scale for name, facts in teachers.items() if facts.logit_scale is not None}
    unknown = [name for name in teachers if name not in found]
    if unknown:
        raise ConfigError(
            f"the relational term needs each teacher's logit scale; the specs of {', '.join(unknown)} do not say it",
            hint="give it as improved.logit_scales: {TEACHER: 100.0}, or set improved.relational_weight: 0",
        )
    return found
