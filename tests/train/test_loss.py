from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from open_clip.loss import ClipLoss
from torch.nn import functional

from train.loss import (
    CORRECTED_INTERACTIVE_SCALE,
    PAPER_INTERACTIVE_SCALE,
    PaperLoss,
    clip_loss,
    feature_loss,
    interactive_loss,
    paper_loss,
)

LOGIT_SCALE = 1 / 0.07


def golden_inputs():
    """Inputs without any random number: student image, student text, teacher image, teacher text, all (4, 8)."""
    i = torch.arange(32, dtype=torch.float64).reshape(4, 8)
    student = torch.sin(0.7 * i + 0.1), torch.cos(0.9 * i + 0.2)
    teacher = 1.5 * torch.sin(1.3 * i + 0.3) / math.sqrt(8), 1.5 * torch.cos(1.1 * i + 0.4) / math.sqrt(8)
    return *(side.requires_grad_() for side in student), *teacher


def drawn_inputs(seed=0, rows=6, width=5, dtype=torch.float64):
    generator = np.random.default_rng(seed)
    return [torch.from_numpy(generator.normal(size=(rows, width))).to(dtype) for _ in range(4)]


def numpy_unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def numpy_diagonal_cross_entropy(logits):
    return np.mean([np.log(np.exp(row).sum()) - row[i] for i, row in enumerate(logits)])


def numpy_paper_terms(image, text, teacher_image, teacher_text, *, logit_scale, interactive_scale):
    """The formulae of the released stage 2, written down a second time."""
    u, v = numpy_unit(image), numpy_unit(text)
    task = numpy_diagonal_cross_entropy(logit_scale * u @ v.T) + numpy_diagonal_cross_entropy(logit_scale * v @ u.T)
    feature = ((u - teacher_image) ** 2).sum() / u.size + ((v - teacher_text) ** 2).sum() / v.size
    interactive = numpy_diagonal_cross_entropy(interactive_scale * u @ teacher_text.T)
    interactive += numpy_diagonal_cross_entropy(interactive_scale * v @ teacher_image.T)
    return task / 2, feature, interactive / 2


def gradients(loss, *leaves):
    return torch.autograd.grad(loss, leaves)


def test_paper_loss_has_the_golden_values_and_gradients():
    image, text, teacher_image, teacher_text = golden_inputs()
    loss = paper_loss(image, text, teacher_image, teacher_text, LOGIT_SCALE)
    assert loss.task_loss.item() == pytest.approx(8.986496304813635, abs=1e-9)
    assert loss.feature_loss.item() == pytest.approx(0.5275366572483278, abs=1e-9)
    assert loss.interactive_loss.item() == pytest.approx(2.147667765538671, abs=1e-9)
    assert loss.total.item() == pytest.approx(37.51099693276869, abs=1e-9)
    image_gradient, text_gradient = gradients(loss.total, image, text)
    assert image_gradient.norm().item() == pytest.approx(5.102123781561908, abs=1e-9)
    assert text_gradient.norm().item() == pytest.approx(3.997415981896919, abs=1e-9)


def test_the_papers_interactive_scale_is_the_float32_log_of_the_meant_scale():
    assert float(np.float32(math.log(CORRECTED_INTERACTIVE_SCALE))) == PAPER_INTERACTIVE_SCALE


def test_clip_loss_equals_open_clips_on_normalised_embeddings():
    image, text, _, _ = golden_inputs()
    theirs = ClipLoss()(functional.normalize(image, dim=-1), functional.normalize(text, dim=-1), LOGIT_SCALE)
    ours = clip_loss(image, text, LOGIT_SCALE)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    for one, other in zip(gradients(ours, image, text), gradients(theirs, image, text), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("interactive_scale", [PAPER_INTERACTIVE_SCALE, CORRECTED_INTERACTIVE_SCALE])
def test_every_term_equals_a_numpy_reference(interactive_scale):
    inputs = drawn_inputs()
    loss = paper_loss(*inputs, 7.0, feature_weight=3.0, interactive_weight=0.5, interactive_scale=interactive_scale)
    task, feature, interactive = numpy_paper_terms(
        *(part.numpy() for part in inputs), logit_scale=7.0, interactive_scale=interactive_scale
    )
    assert loss.task_loss.item() == pytest.approx(task, abs=1e-12)
    assert loss.feature_loss.item() == pytest.approx(feature, abs=1e-12)
    assert loss.interactive_loss.item() == pytest.approx(interactive, abs=1e-12)
    assert loss.total.item() == pytest.approx(task + 3.0 * feature + 0.5 * interactive, abs=1e-12)


def test_feature_loss_is_one_plus_r_squared_minus_two_r_cosine():
    student, teacher, _, _ = drawn_inputs(seed=1)
    r = teacher.norm(dim=1)
    cosine = functional.cosine_similarity(student, teacher)
    expected = (1 + r**2 - 2 * r * cosine).sum() / teacher.numel()
    assert feature_loss(student, teacher).item() == pytest.approx(expected.item(), abs=1e-12)


def test_student_length_does_not_matter_and_teacher_length_does():
    image, text, teacher_image, teacher_text = drawn_inputs(seed=2)
    base = paper_loss(image, text, teacher_image, teacher_text, LOGIT_SCALE)
    longer_student = paper_loss(image * 9, text * 0.1, teacher_image, teacher_text, LOGIT_SCALE)
    longer_teacher = paper_loss(image, text, teacher_image * 2, teacher_text * 2, LOGIT_SCALE)
    torch.testing.assert_close(longer_student.total, base.total)
    assert longer_teacher.task_loss == base.task_loss
    assert abs(longer_teacher.feature_loss - base.feature_loss) > 0.1
    assert abs(longer_teacher.interactive_loss - base.interactive_loss) > 0.1


def test_absent_rows_may_be_nan_and_count_as_if_they_were_not_in_the_batch():
    inputs = drawn_inputs(seed=3)
    mask = torch.tensor([True, False, True, True, False, True])
    kept = [part[mask].requires_grad_() for part in inputs]
    holed = [part.clone() for part in inputs]
    for part in holed:
        part[~mask] = float("nan")
        part.requires_grad_()
    _check_same_loss(feature_loss(kept[0], kept[2]), feature_loss(holed[0], holed[2], mask), kept, holed, mask)
    _check_same_loss(interactive_loss(*kept, 4.0), interactive_loss(*holed, 4.0, mask_B=mask), kept, holed, mask)


def _check_same_loss(expected, found, kept, holed, mask):
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
    wanted = torch.autograd.grad(expected, kept, allow_unused=True, materialize_grads=True)
    got = torch.autograd.grad(found, holed, allow_unused=True, materialize_grads=True)
    for want, have in zip(wanted, got, strict=True):
        torch.testing.assert_close(have[mask], want)
        assert not have[~mask].any()


def test_paper_loss_counts_rows_without_a_teacher_in_the_task_only():
    image, text, teacher_image, teacher_text = drawn_inputs(seed=4)
    mask = torch.tensor([True, True, False, True, False, True])
    teacher_image[~mask] = teacher_text[~mask] = float("nan")
    loss = paper_loss(image, text, teacher_image, teacher_text, LOGIT_SCALE, mask_B=mask)
    kept = paper_loss(image[mask], text[mask], teacher_image[mask], teacher_text[mask], LOGIT_SCALE)
    torch.testing.assert_close(loss.task_loss, clip_loss(image, text, LOGIT_SCALE))
    torch.testing.assert_close(loss.feature_loss, kept.feature_loss)
    torch.testing.assert_close(loss.interactive_loss, kept.interactive_loss)


def test_a_batch_without_any_teacher_gives_exactly_zero_and_no_gradient():
    image, text, _, _ = drawn_inputs(seed=5)
    image.requires_grad_()
    text.requires_grad_()
    nothing = torch.full_like(image, float("nan"))
    mask = torch.zeros(len(image), dtype=torch.bool)
    pulls = feature_loss(image, nothing, mask) + feature_loss(text, nothing, mask)
    contrast = interactive_loss(image, text, nothing, nothing, 4.0, mask_B=mask)
    for loss in (pulls, contrast):
        assert loss.item() == 0.0
        assert all(not gradient.any() for gradient in gradients(loss, image, text))


def test_a_mask_that_is_true_everywhere_changes_nothing():
    inputs = drawn_inputs(seed=6)
    everywhere = torch.ones(len(inputs[0]), dtype=torch.bool)
    masked = paper_loss(*inputs, LOGIT_SCALE, mask_B=everywhere)
    torch.testing.assert_close(masked.total, paper_loss(*inputs, LOGIT_SCALE).total, rtol=1e-13, atol=0)


def test_permuting_the_batch_leaves_every_term_equal():
    inputs = drawn_inputs(seed=7)
    mask = torch.tensor([True, True, False, True, True, True])
    order = torch.tensor([3, 5, 0, 2, 4, 1])
    base = paper_loss(*inputs, LOGIT_SCALE, mask_B=mask)
    permuted = paper_loss(*(part[order] for part in inputs), LOGIT_SCALE, mask_B=mask[order])
    for term in PaperLoss.__dataclass_fields__:
        torch.testing.assert_close(getattr(permuted, term), getattr(base, term), rtol=1e-12, atol=1e-12)


def test_gradients_agree_with_finite_differences():
    inputs = [part.requires_grad_() for part in drawn_inputs(seed=8, rows=4, width=3)]
    log_scale = torch.tensor(1.2, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([True, False, True, True])

    def total(image, text, teacher_image, teacher_text, log_scale):
        return paper_loss(image, text, teacher_image, teacher_text, log_scale.exp(), mask_B=mask).total

    assert torch.autograd.gradcheck(total, (*inputs, log_scale))


def test_autocast_does_not_touch_the_loss():
    inputs = [part.requires_grad_() for part in drawn_inputs(seed=9, dtype=torch.float32)]
    outside = paper_loss(*inputs, LOGIT_SCALE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = paper_loss(*inputs, LOGIT_SCALE)
    assert inside.total.dtype == torch.float32
    exact = paper_loss(*(part.double() for part in inputs), LOGIT_SCALE)
    assert inside.total.item() == pytest.approx(exact.total.item(), rel=1e-5)
    for term in PaperLoss.__dataclass_fields__:
        assert torch.equal(getattr(inside, term), getattr(outside, term))
    for one, other in zip(gradients(inside.total, *inputs), gradients(outside.total, *inputs), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_widened_before_anything_else(dtype):
    half = [part.to(dtype) for part in drawn_inputs(seed=10)]
    scale = torch.tensor(14.0, dtype=dtype)
    loss = paper_loss(*half, scale, interactive_scale=scale)
    wide = paper_loss(*(part.float() for part in half), 14.0, interactive_scale=14.0)
    assert loss.total.dtype == torch.float32
    assert torch.equal(loss.total, wide.total)


def test_tensors_that_do_not_match_are_refused():
    image, text, teacher_image, _ = drawn_inputs()
    with pytest.raises(ValueError, match=r"equal shape, got \(6, 5\) and \(5, 5\)"):
        clip_loss(image, text[1:], LOGIT_SCALE)
    with pytest.raises(ValueError, match=r"equal shape, got \(6, 5\) and \(6, 1\)"):
        feature_loss(image, teacher_image[:, :1])
    with pytest.raises(ValueError, match=r"bool mask of shape \(6,\), got torch.float64"):
        feature_loss(image, teacher_image, torch.ones(6, dtype=torch.float64))
