"""A batch with three teachers of different widths, for tests of objectives."""

from __future__ import annotations

import numpy as np
import torch

from train.data.targets import Targets, TeacherTargets
from train.losses.objective import Given
from train.recipe_sections import ImprovedRecipe
from train.recipes.improved import ImprovedObjective, TeacherFacts
from train.recipes.projection import Projection
from train.recipes.teacher_statistics import TeacherStatistics, side_statistics

WIDTHS = {"a": 4, "b": 8, "c": 12}
SCALES = {"a": 20.0, "b": 50.0, "c": 7.0}
ROWS, STUDENT = 6, 5
SIDES = ("image", "text")


def numpy_unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Case:
    """Student embeddings and features of three teachers, each absent somewhere, and the last one nearly everywhere.

    Those named in ``one_sided`` encode images alone.
    """

    def __init__(self, seed=0, rows=ROWS, one_sided=()):
        self.one_sided = one_sided
        rng = np.random.default_rng(seed)
        self.student = {side: rng.normal(size=(rows, STUDENT)) for side in SIDES}
        self.features = {
            (name, side): numpy_unit(rng.normal(size=(rows, width)) + 0.5)
            for name, width in WIDTHS.items()
            for side in SIDES
        }
        self.mask = {name: rng.random(rows) < 0.7 for name in WIDTHS}
        self.mask["c"][:] = False
        self.mask["c"][rows // 2] = True
        drawn = {key: numpy_unit(rng.normal(size=(60, WIDTHS[key[0]])) + 0.5) for key in self.features}
        sides = {key: side_statistics(part) for key, part in drawn.items() if key[1] in self.sides_of(key[0])}
        self.statistics = TeacherStatistics(sides=sides, spec_hashes=dict.fromkeys(WIDTHS, "0"))

    def sides_of(self, name):
        return SIDES[:1] if name in self.one_sided else SIDES

    def given(self, names=tuple(WIDTHS), order=None):
        """Return an objective's input for some rows in some order; it has no absent features."""
        order = np.arange(len(self.student["image"])) if order is None else order
        teachers = {}
        for name in names:
            places = np.flatnonzero(self.mask[name][order])
            image, text = (torch.from_numpy(self.features[name, side][order][places]) for side in SIDES)
            text = None if name in self.one_sided else text
            teachers[name] = TeacherTargets(image_KD=image, text_KD=text, places_K=torch.from_numpy(places))
        targets = Targets(rows=len(order), teachers=teachers)
        return Given(rows_B=100 + order, step=3, targets=targets)

    def embeddings(self, order=slice(None)):
        return [torch.from_numpy(self.student[side][order]).requires_grad_() for side in SIDES]

    def objective(self, names=tuple(WIDTHS), **settings):
        facts = {}
        for name in names:
            scale = None if name in self.one_sided else SCALES[name]
            facts[name] = TeacherFacts(width=WIDTHS[name], logit_scale=scale, sides=self.sides_of(name))
        recipe = ImprovedRecipe(**settings)
        made = ImprovedObjective(recipe, facts, embed_dim=STUDENT, statistics=self.statistics, seed=5)
        return made.double()


def identity_projection(spec_hashes, width):
    """The projection that changes nothing, for teachers of the student's width."""
    return Projection(
        weights={teacher: torch.eye(width) for teacher in spec_hashes},
        biases={teacher: torch.zeros(width) for teacher in spec_hashes},
        spec_hashes=dict(spec_hashes),
        settings={"kind": "identity"},
    )
