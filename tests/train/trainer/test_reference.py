"""Twenty steps of the released stage 2, written down a second time in float64, beside ours."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.train.vit import some_batch, vit_student
from train.config import Optimization
from train.data.targets import Targets, TeacherTargets
from train.losses.objective import TaskObjective
from train.models.towers import Towers
from train.recipe_sections import PaperRecipe
from train.recipes.paper import PaperObjective
from train.recipes.projection import Projection
from train.runtime.ranks import ALONE
from train.trainer.train_step import Updater, inputs_of

STEPS, ROWS, WIDTHS = 20, 8, {"alpha": 12, "beta": 20}
SETTINGS = Optimization(steps=STEPS, batch_size=ROWS, lr=3e-3, warmup_steps=5)
"""Weight decay, betas and epsilon are the defaults: those of the released configuration."""

RELEASED_SCALE = float(np.float32(math.log(1 / 0.07)))
"""The released scale of the interactive loss: a float32 parameter that holds a logarithm and is not exponentiated."""


class Released:
    """The released training, by its formulas: loss, schedule, groups of decay, AdamW and bound of the logit scale."""

    def __init__(self, student, projection):
        self.model, self.student, self.projection = copy.deepcopy(student.model), student, projection
        self.parameters = dict(self.model.named_parameters())
        self.first = {name: torch.zeros_like(tensor) for name, tensor in self.parameters.items()}
        self.second = copy.deepcopy(self.first)
        self.bounded = 0

    def loss(self, batch):
        pixels, tokens, _ = inputs_of(batch, torch.device("cpu"))
        mean, std = (torch.tensor(part).double().view(1, 3, 1, 1) for part in (self.student.mean, self.student.std))
        image = self.model.encode_image((pixels.permute(0, 3, 1, 2).double() / 255 - mean) / std)
        u, v = (functional.normalize(part, dim=-1) for part in (image, self.model.encode_text(tokens)))
        labels, scale = torch.arange(len(u)), self.model.logit_scale.exp()

        def contrast(one, other, by):
            return functional.cross_entropy(by * one @ other.T, labels)

        task = (contrast(u, v, scale) + contrast(v, u, scale)) / 2
        if batch.targets is None:
            return task
        p, q = torch.empty_like(u), torch.empty_like(v)
        for name, teacher in batch.targets.teachers.items():
            weight, bias = self.projection.weights[name].double(), self.projection.biases[name].double()
            for into, features in ((p, teacher.image_KD), (q, teacher.text_KD)):
                into[teacher.places_K] = (features.double() @ weight.T + bias).bfloat16().double()
        feature = ((u - p) ** 2).sum() / u.numel() + ((v - q) ** 2).sum() / v.numel()
        interactive = (contrast(u, q, RELEASED_SCALE) + contrast(v, p, RELEASED_SCALE)) / 2
        return task + 50 * feature + interactive

    def update(self, batch):
        step, lr = batch.step, 3e-3
        if step < 5:
            lr *= (step + 1) / 5
        else:
            lr *= 0.5 * (1 + math.cos(math.pi * (step - 5) / (STEPS - 5)))
        gradients = torch.autograd.grad(self.loss(batch), list(self.parameters.values()))
        with torch.no_grad():
            for (name, tensor), gradient in zip(self.parameters.items(), gradients, strict=True):
                plain = tensor.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
                tensor.mul_(1 - lr * (0.0 if plain else 0.2))
                self.first[name] = 0.9 * self.first[name] + 0.1 * gradient
                self.second[name] = 0.98 * self.second[name] + 0.02 * gradient**2
                mean = self.first[name] / (1 - 0.9 ** (step + 1))
                spread = self.second[name] / (1 - 0.98 ** (step + 1))
                tensor.sub_(lr * mean / (spread.sqrt() + 1e-6))
            scale = self.model.logit_scale
            self.bounded += not 0 <= scale.item() <= math.log(100)
            scale.clamp_(0, math.log(100))


def taught(step):
    """Return a batch; each row has one teacher, as the released draw gives it."""
    rng = np.random.default_rng(step)
    drawn = rng.integers(len(WIDTHS), size=ROWS)
    teachers = {}
    for number, (name, width) in enumerate(WIDTHS.items()):
        places = torch.from_numpy(np.flatnonzero(drawn == number))
        image, text = (
            functional.normalize(torch.from_numpy(rng.normal(size=(len(places), width)))).half() for _ in "it"
        )
        teachers[name] = TeacherTargets(image_KD=image, text_KD=text, places_K=places)
    return replace(some_batch(ROWS, step=step, seed=step), targets=Targets(rows=ROWS, teachers=teachers))


def projection_of(width):
    rng = np.random.default_rng(3)
    drawn = {name: torch.from_numpy(rng.normal(size=(width, own), scale=0.3)).float() for name, own in WIDTHS.items()}
    biases = {name: torch.from_numpy(rng.normal(size=width, scale=0.3)).float() for name in WIDTHS}
    return Projection(weights=drawn, biases=biases, spec_hashes=dict.fromkeys(WIDTHS, "0"), settings={})


@pytest.mark.parametrize(("recipe", "scale"), [("paper", 1 / 0.07), ("paper", 1.003), ("stage 1", 1 / 0.07)])
def test_twenty_steps_give_the_parameters_of_the_formulas(tmp_path, recipe, scale):
    student = vit_student(tmp_path)
    student.model.double()
    student.model.logit_scale.data.fill_(math.log(scale))
    projection = projection_of(student.embed_dim)
    reference = Released(student, projection)
    objective = PaperObjective(PaperRecipe(), projection).double() if recipe == "paper" else TaskObjective()
    ours = Updater(Towers(student, precision="fp32").double().train(), objective, SETTINGS, ALONE)
    start = copy.deepcopy(reference.parameters)
    for step in range(STEPS):
        batch = taught(step) if recipe == "paper" else some_batch(ROWS, step=step, seed=0)
        expected = reference.loss(batch).item()
        assert ours.update(batch)["loss"].item() == pytest.approx(expected, rel=1e-12), step
        reference.update(batch)
    for name, tensor in student.model.named_parameters():
        bound = torch.full_like(tensor, 1e-12)
        if name.endswith("attn.in_proj_bias"):
            # The bias of the keys shifts all of a row's scores alike and has no gradient: what AdamW divides by epsilon
            # there are rounding errors.
            bound[len(bound) // 3 : 2 * len(bound) // 3] = 1e-10
        assert bool(((tensor - reference.parameters[name]).abs() <= bound).all()), name
        assert (tensor - start[name]).abs().max() > 1e-4, f"{name} was not trained"
    assert bool(reference.bounded) == (scale != 1 / 0.07)
