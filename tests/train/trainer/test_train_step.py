"""Gradients of large batches in small pieces, in half precision and in parts, against those of the plain way."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from store.errors import ConfigError
from tests.train.vit import WORDS, some_batch, vit_student
from train.config import ModelSection, Optimization
from train.losses.contrastive import clip_loss
from train.losses.objective import Objective, TaskObjective
from train.models.model_folder import begin_model
from train.models.towers import prepare_towers, seed_part
from train.runtime.ranks import ALONE
from train.trainer.train_step import Updater, inputs_of


class Weighted(Objective):
    """CLIP's loss with a parameter of its own and a term that looks at the images alone."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7))
        self.never_used = nn.Parameter(torch.ones(3))

    def forward(self, image_BE, text_BE, logit_scale, given):
        task = clip_loss(image_BE, text_BE, logit_scale)
        return {"loss": self.weight * task + image_BE.square().mean(), "task_loss": task}


def updater_of(student, *, objective=None, **changes):
    settings = Optimization(**{"steps": 9, "batch_size": 8, "lr": 1e-3, "seed": 3, **changes})
    towers = prepare_towers(student, settings)
    return Updater(towers, objective or TaskObjective(), settings, ALONE)


def gradients_of(tmp_path, *, objective=None, rows=8, vision=None, **changes):
    student = vit_student(tmp_path, **(vision or {}))
    updater = updater_of(student, objective=objective, **changes)
    terms = updater.gradients(some_batch(rows))
    return {name: tensor.grad.clone() for name, tensor in student.model.named_parameters()}, terms


def assert_close(found, expected, *, atol):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("cached_rows", [1, 3, 4, 7])
def test_cached_gradients_are_those_of_the_whole_batch(tmp_path, cached_rows):
    plain, cached = Weighted(), Weighted()
    expected, terms = gradients_of(tmp_path, objective=plain)
    found, cached_terms = gradients_of(tmp_path, objective=cached, cached_rows=cached_rows)
    assert_close(found, expected, atol=1e-5)
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 0.01
    for name, term in terms.items():
        torch.testing.assert_close(cached_terms[name], term, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(cached.weight.grad, plain.weight.grad)
    assert not cached.never_used.grad.any()


def test_a_piece_that_passes_the_towers_twice_meets_the_same_dropout(tmp_path):
    student = vit_student(tmp_path, patch_dropout=0.5)
    updater = updater_of(student, cached_rows=4)
    batch = some_batch(8)
    # The reference keeps the graphs of all pieces, so that nothing is computed a second time.
    towers = prepare_towers(student, Optimization(steps=9, batch_size=8, lr=1e-3))
    inputs = inputs_of(batch, torch.device("cpu"))
    pieces = []
    for part in range(2):
        seed_part(3, step=0, rank=0, part=part, device=torch.device("cpu"))
        pieces.append(towers(*(value[part * 4 : part * 4 + 4] for value in inputs)))
    loss = clip_loss(torch.cat([p[0] for p in pieces]), torch.cat([p[1] for p in pieces]), pieces[0][2])
    parameters = dict(student.model.named_parameters())
    expected = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    terms = updater.gradients(batch)
    torch.testing.assert_close(terms["loss"], loss.detach())
    assert_close({name: tensor.grad for name, tensor in parameters.items()}, expected, atol=1e-6)


def test_gradients_of_parts_are_the_mean_of_each_parts_own(tmp_path):
    found, terms = gradients_of(tmp_path, accumulate=2)
    halves, losses = [], []
    for half in range(2):
        student = vit_student(tmp_path)
        updater = updater_of(student)
        part = some_batch(8).part(half * 4, half * 4 + 4)
        losses.append(updater.gradients(part)["loss"])
        halves.append({name: tensor.grad.clone() for name, tensor in student.model.named_parameters()})
    assert_close(found, {name: (halves[0][name] + halves[1][name]) / 2 for name in found}, atol=1e-6)
    torch.testing.assert_close(terms["loss"], (losses[0] + losses[1]) / 2)


def test_gradient_checkpointing_changes_no_gradient(tmp_path):
    expected, _ = gradients_of(tmp_path)
    found, _ = gradients_of(tmp_path, gradient_checkpointing=True)
    assert_close(found, expected, atol=1e-7)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_of_the_towers_alone_and_only_fp16_scales_the_loss(tmp_path, precision):
    exact, terms = gradients_of(tmp_path, rows=8)
    student = vit_student(tmp_path)
    updater = updater_of(student, precision=precision)
    seen = []

    class Looking(TaskObjective):
        def forward(self, image_BE, text_BE, logit_scale, given):
            seen.append((image_BE.dtype, text_BE.dtype))
            return super().forward(image_BE, text_BE, logit_scale, given)

    updater._objective = Looking()
    assert updater.scaler.is_enabled() == (precision == "fp16")
    found = updater.gradients(some_batch(8))
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert dtype in seen[0]
    assert found["loss"].dtype == torch.float32
    torch.testing.assert_close(found["loss"], terms["loss"], rtol=0.02, atol=0.02)
    scale = updater.scaler.get_scale()
    for name, tensor in student.model.named_parameters():
        assert tensor.dtype == torch.float32
        gradient = tensor.grad / scale
        error = (gradient - exact[name]).norm() / exact[name].norm().clamp(min=1e-3)
        assert error < 0.1, name


@pytest.mark.parametrize("logits", ["float32", "autocast"])
def test_logits_are_computed_in_the_dtype_of_the_towers_only_if_that_is_asked_for(tmp_path, logits):
    found = []

    class Looking(TaskObjective):
        def forward(self, image_BE, text_BE, logit_scale, given):
            found.append((image_BE.float() @ text_BE.float().T).dtype)
            return super().forward(image_BE, text_BE, logit_scale, given)

    gradients_of(tmp_path, objective=Looking(), precision="bf16", logits=logits)
    gradients_of(tmp_path, objective=Looking(), precision="bf16", logits=logits, cached_rows=4)
    assert found == [{"float32": torch.float32, "autocast": torch.bfloat16}[logits]] * 2


def test_fp16_clips_what_the_gradients_are_and_not_what_they_are_scaled_to(tmp_path):
    norms = {}
    for precision in ("fp32", "fp16"):
        student = vit_student(tmp_path)
        updater = updater_of(student, precision=precision, grad_clip=0.01, lr=1e-9)
        updater.update(some_batch(8))
        norms[precision] = torch.stack([p.grad.norm() for p in student.model.parameters()]).norm()
    assert norms["fp32"] == pytest.approx(0.01, rel=1e-3)
    assert norms["fp16"] == pytest.approx(0.01, rel=1e-2)


def test_a_compiled_model_keeps_the_names_of_its_weights(tmp_path):
    student = vit_student(tmp_path)
    names = list(student.model.state_dict())
    towers = prepare_towers(student, Optimization(steps=9, batch_size=8, lr=1e-3, compile=True))
    assert list(student.model.state_dict()) == names
    assert all(hasattr(encode, "_torchdynamo_orig_callable") for encode in (towers._image, towers._text))


@pytest.mark.fault  # compiling takes a minute
def test_compiled_towers_give_the_same_gradients(tmp_path):
    expected, terms = gradients_of(tmp_path)
    found, compiled_terms = gradients_of(tmp_path, compile=True)
    torch.testing.assert_close(compiled_terms["loss"], terms["loss"], rtol=1e-4, atol=1e-5)
    assert_close(found, expected, atol=1e-5)


def test_gradient_caching_of_a_model_with_batch_statistics_is_refused(tmp_path, tiny_model):
    student = begin_model(tmp_path, ModelSection(**tiny_model), WORDS, seed=0)
    with pytest.raises(ConfigError, match="normalises over the batch"):
        updater_of(student, cached_rows=4)


def test_parts_and_caching_exclude_each_other():
    with pytest.raises(ValueError, match="accumulate or cached_rows, not both"):
        Optimization(steps=1, batch_size=8, lr=1, accumulate=2, cached_rows=4)


def test_parts_of_one_pair_have_nothing_to_contrast_and_are_refused():
    with pytest.raises(ValueError, match="less than two pairs each"):
        Optimization(steps=1, batch_size=8, lr=1, accumulate=8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup_steps": 10}, r"warmup_steps: 10 are not fewer than steps: 10.* give at most 9, or more steps"),
        ({"warmup_steps": 20}, r"warmup_steps: 20 are not fewer than steps: 10"),
        ({"logits": "autocast"}, r"logits: autocast needs precision: bf16 or fp16"),
        ({"ema": 0.9999}, r"ema: 0.9999 averages over 10,000 steps and the run has 10.* give at most 0.9, or"),
    ],
)
def test_what_no_run_can_mean_is_refused_with_what_would_do(settings, message):
    with pytest.raises(ValueError, match=message):
        Optimization(steps=10, batch_size=8, lr=1, **settings)
    assert Optimization(steps=10, batch_size=8, lr=1, warmup_steps=9, ema=0.9).ema == 0.9


@pytest.mark.parametrize("steps", [7, 3000, 20_000, 226_000])
def test_the_largest_average_that_is_named_is_accepted(steps):
    with pytest.raises(ValueError, match=r"give at most") as caught:
        Optimization(steps=steps, batch_size=8, lr=1, ema=0.9999999)
    named = float(re.search(r"give at most ([\d.]+),", str(caught.value))[1])
    assert Optimization(steps=steps, batch_size=8, lr=1, ema=named).ema == named


def test_a_part_of_a_step_has_randomness_of_its_own():
    def draw(**numbers):
        seed_part(1, **{"step": 0, "rank": 0, "part": 0, **numbers}, device=torch.device("cpu"))
        return torch.rand(3).tolist()

    drawn = [draw(), draw(step=1), draw(rank=1), draw(part=1)]
    assert len(np.unique(drawn)) == 12
    assert draw() == drawn[0]
