from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from open_clip.loss import ClipLoss, DistillClipLoss
from torch.nn import functional

from tests.train.teacher_case import numpy_unit
from train.losses.contrastive import clip_loss
from train.losses.distillation import (
    CORRECTED_INTERACTIVE_SCALE,
    PAPER_INTERACTIVE_SCALE,
    feature_loss,
    interactive_sum,
    relation_sum,
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


def interactive_loss(*inputs):
    total, count = interactive_sum(*inputs)
    return total / max(1, count)


def three_terms(image, text, teacher_image, teacher_text, logit_scale, *, interactive_scale, taught=slice(None)):
    """The terms of the released stage 2; some rows have a teacher."""
    parts = [part[taught] for part in (image, text, teacher_image, teacher_text)]
    return (
        clip_loss(image, text, logit_scale),
        feature_loss(parts[0], parts[2]) + feature_loss(parts[1], parts[3]),
        interactive_loss(*parts, interactive_scale),
    )


def released(*inputs):
    """Their sum with the released weights and scales."""
    task, feature, interactive = three_terms(*inputs, LOGIT_SCALE, interactive_scale=PAPER_INTERACTIVE_SCALE)
    return task + 50 * feature + interactive


def gradients(loss, *leaves):
    return torch.autograd.grad(loss, leaves)


def test_the_papers_interactive_scale_is_the_float32_log_of_the_meant_scale():
    assert float(np.float32(math.log(CORRECTED_INTERACTIVE_SCALE))) == PAPER_INTERACTIVE_SCALE


def test_clip_loss_equals_open_clips_on_normalised_embeddings():
    image, text, _, _ = golden_inputs()
    theirs = ClipLoss()(functional.normalize(image, dim=-1), functional.normalize(text, dim=-1), LOGIT_SCALE)
    ours = clip_loss(image, text, LOGIT_SCALE)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    for one, other in zip(gradients(ours, image, text), gradients(theirs, image, text), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_feature_loss_is_one_plus_r_squared_minus_two_r_cosine():
    student, teacher, _, _ = drawn_inputs(seed=1)
    r = teacher.norm(dim=1)
    cosine = functional.cosine_similarity(student, teacher)
    expected = (1 + r**2 - 2 * r * cosine).sum() / teacher.numel()
    assert feature_loss(student, teacher).item() == pytest.approx(expected.item(), abs=1e-12)


def test_a_batch_without_any_teacher_gives_exactly_zero_and_no_gradient():
    image, text, nothing, _ = drawn_inputs(seed=5)
    image.requires_grad_()
    text.requires_grad_()
    pulls = feature_loss(image[:0], nothing[:0]) + feature_loss(text[:0], nothing[:0])
    contrast = interactive_loss(image[:0], text[:0], nothing[:0], nothing[:0], 4.0)
    for loss in (pulls, contrast):
        assert loss.item() == 0.0
        assert all(not gradient.any() for gradient in gradients(loss, image, text))


def test_tensors_that_do_not_match_are_refused():
    image, text, teacher_image, _ = drawn_inputs()
    with pytest.raises(ValueError, match=r"equal shape, got \(6, 5\) and \(5, 5\)"):
        clip_loss(image, text[1:], LOGIT_SCALE)
    with pytest.raises(ValueError, match=r"equal shape, got \(5, 5\) and \(6, 5\)"):
        clip_loss(image[1:], text, LOGIT_SCALE)
    with pytest.raises(ValueError, match=r"two \(rows, width\) tensors .*, got \(5,\) and \(5,\)"):
        clip_loss(image[0], text[0], LOGIT_SCALE)
    with pytest.raises(ValueError, match=r"equal shape, got \(6, 5\) and \(6, 1\)"):
        feature_loss(image, teacher_image[:, :1])


def test_the_three_losses_have_the_golden_values_and_gradients():
    image, text, teacher_image, teacher_text = golden_inputs()
    task, feature, interactive = three_terms(
        image, text, teacher_image, teacher_text, LOGIT_SCALE, interactive_scale=PAPER_INTERACTIVE_SCALE
    )
    assert task.item() == pytest.approx(8.986496304813635, abs=1e-9)
    assert feature.item() == pytest.approx(0.5275366572483278, abs=1e-9)
    assert interactive.item() == pytest.approx(2.147667765538671, abs=1e-9)
    total = task + 50 * feature + interactive
    assert total.item() == pytest.approx(37.51099693276869, abs=1e-9)
    image_gradient, text_gradient = gradients(total, image, text)
    assert image_gradient.norm().item() == pytest.approx(5.102123781561908, abs=1e-9)
    assert text_gradient.norm().item() == pytest.approx(3.997415981896919, abs=1e-9)


@pytest.mark.parametrize("interactive_scale", [PAPER_INTERACTIVE_SCALE, CORRECTED_INTERACTIVE_SCALE])
def test_every_term_equals_a_numpy_reference(interactive_scale):
    inputs = drawn_inputs()
    found = three_terms(*inputs, 7.0, interactive_scale=interactive_scale)
    expected = numpy_paper_terms(
        *(part.numpy() for part in inputs), logit_scale=7.0, interactive_scale=interactive_scale
    )
    assert [term.item() for term in found] == pytest.approx(expected, abs=1e-12)


def test_student_length_does_not_matter_and_teacher_length_does():
    image, text, teacher_image, teacher_text = drawn_inputs(seed=2)
    scales = {"logit_scale": LOGIT_SCALE, "interactive_scale": 4.0}
    base = three_terms(image, text, teacher_image, teacher_text, **scales)
    longer_student = three_terms(image * 9, text * 0.1, teacher_image, teacher_text, **scales)
    longer_teacher = three_terms(image, text, teacher_image * 2, teacher_text * 2, **scales)
    torch.testing.assert_close(longer_student, base)
    assert longer_teacher[0] == base[0]
    assert abs(longer_teacher[1] - base[1]) > 0.1
    assert abs(longer_teacher[2] - base[2]) > 0.1


def test_permuting_the_batch_leaves_every_term_equal():
    inputs = drawn_inputs(seed=7)
    mask = torch.tensor([True, True, False, True, True, True])
    order = torch.tensor([3, 5, 0, 2, 4, 1])
    base = three_terms(*inputs, LOGIT_SCALE, interactive_scale=3.0, taught=mask)
    permuted = three_terms(*(part[order] for part in inputs), LOGIT_SCALE, interactive_scale=3.0, taught=mask[order])
    torch.testing.assert_close(permuted, base, rtol=1e-12, atol=1e-12)


def test_gradients_agree_with_finite_differences():
    inputs = [part.requires_grad_() for part in drawn_inputs(seed=8, rows=4, width=3)]
    log_scales = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.2, 0.3)]
    mask = torch.tensor([True, False, True, True])

    def total(image, text, teacher_image, teacher_text, log_scale, log_interactive):
        parts = image, text, teacher_image, teacher_text
        terms = three_terms(*parts, log_scale.exp(), interactive_scale=log_interactive.exp(), taught=mask)
        return terms[0] + 50 * terms[1] + terms[2]

    assert torch.autograd.gradcheck(total, (*inputs, *log_scales))


def test_gradients_of_the_relational_divergence_agree_with_finite_differences():
    student, teacher = (
        torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (1, 2)
    )
    assert torch.autograd.gradcheck(relation_sum, (student.requires_grad_(), teacher))


def released_in_autocast(image, text, teacher_image, teacher_text, logit_scale):
    """The released loss, written as its code has it, for a region in which products are rounded."""
    u, v = functional.normalize(image, dim=1), functional.normalize(text, dim=1)
    labels = torch.arange(len(u))

    def both(one, other):
        return (functional.cross_entropy(one.float(), labels) + functional.cross_entropy(other.float(), labels)) / 2

    task = both(logit_scale * u @ v.T, logit_scale * v @ u.T)
    feature = functional.mse_loss(u, teacher_image) + functional.mse_loss(v, teacher_text)
    scale = PAPER_INTERACTIVE_SCALE
    return task, feature, both(scale * u @ teacher_text.T, scale * v @ teacher_image.T)


def test_an_autocast_region_rounds_the_logits_as_the_released_code_does_and_nothing_else():
    inputs = [part.requires_grad_() for part in drawn_inputs(seed=9, rows=32, dtype=torch.float32)]
    scale = torch.tensor(100.0)
    outside = three_terms(*inputs, scale, interactive_scale=PAPER_INTERACTIVE_SCALE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = three_terms(*inputs, scale, interactive_scale=PAPER_INTERACTIVE_SCALE)
        theirs = released_in_autocast(*inputs, scale)
    assert {term.dtype for term in inside} == {torch.float32}
    torch.testing.assert_close(inside, theirs, rtol=1e-6, atol=0)
    assert torch.equal(inside[1], outside[1])
    for place in (0, 2):
        error = abs(inside[place].item() / outside[place].item() - 1)
        assert 1e-6 < error < 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_widened_before_anything_else(dtype):
    half = [part.to(dtype) for part in drawn_inputs(seed=10)]
    scale = torch.tensor(14.0, dtype=dtype)
    found = three_terms(*half, scale, interactive_scale=scale)
    wide = three_terms(*(part.float() for part in half), 14.0, interactive_scale=14.0)
    assert {term.dtype for term in found} == {torch.float32}
    assert torch.equal(torch.stack(found), torch.stack(wide))


def test_the_relational_divergence_is_the_distillation_loss_of_open_clip_less_the_teachers_entropy():
    image, text, teacher_image, teacher_text = (functional.normalize(part, dim=-1) for part in drawn_inputs(seed=11))
    student, teacher = 9.0 * image @ text.T, 30.0 * teacher_image @ teacher_text.T
    _, theirs = DistillClipLoss()(image, text, 9.0, teacher_image, teacher_text, 30.0)
    entropy = sum(torch.special.entr(logits.softmax(dim=1)).sum() for logits in (teacher, teacher.T)) / (2 * len(image))
    ours = (relation_sum(student, teacher) + relation_sum(student.T, teacher.T)) / (2 * len(image))
    assert ours.item() == pytest.approx((theirs - entropy).item(), abs=1e-12)
