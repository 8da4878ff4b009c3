"""Losses of the two stages, as pure functions of embeddings and features.

They know nothing of models, ranks or stores: a caller on many ranks hands in the gathered batch. Each one computes in
float32, or float64 where it is given that, also inside an autocast region: half precision inputs are widened first.

Axes: B batch rows, D teacher width after projection, E student width (D equals E here).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

PAPER_INTERACTIVE_SCALE = 2.6592600345611572
"""Logit scale of the interactive loss in the released MMKD-CLIP code: ln(1/0.07), rounded to float32.

The released code creates the parameter as CLIP does, holding the *log* of the scale, but multiplies the cosines with it
without the exponential, and never hands it to the optimizer: it stays this constant. The value is that of the float32
parameter; the logarithm in float64 differs in the ninth digit.
"""

CORRECTED_INTERACTIVE_SCALE = 1 / 0.07
"""Logit scale that the released code evidently meant, 14.29: the exponential of the parameter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperLoss:
    """The three terms of the paper's stage 2, unweighted, and their weighted sum; each a scalar of the graph."""

    task_loss: Tensor
    feature_loss: Tensor
    interactive_loss: Tensor
    total: Tensor


def clip_loss(image_BE: Tensor, text_BE: Tensor, logit_scale: Tensor | float) -> Tensor:
    """Return the symmetric InfoNCE loss of CLIP between matching rows.

    Args:
        image_BE: student's image embeddings; L2-normalised here.
        text_BE: student's text embeddings; L2-normalised here.
        logit_scale: multiplier of the cosines, already exponentiated.
    """
    _require_equal_shapes(image_BE, text_BE)
    with _no_autocast(image_BE):
        image_BE, text_BE = _unit(_widen(image_BE)), _unit(_widen(text_BE))
        logits_BB = _widen_scale(logit_scale) * (image_BE @ text_BE.T)
        target_B = torch.arange(len(logits_BB), device=logits_BB.device)
        return (functional.cross_entropy(logits_BB, target_B) + functional.cross_entropy(logits_BB.T, target_B)) / 2


def feature_loss(student_BD: Tensor, teacher_BD: Tensor, mask_B: Tensor | None = None) -> Tensor:
    """Return the mean squared error between unit-norm embeddings and teacher features, over all B*D elements.

    With r the norm of a feature, the squared distance of a row is 1 + r^2 - 2 r cos: longer features pull harder.

    Args:
        student_BD: student's embeddings of one side; L2-normalised here.
        teacher_BD: projected features of the same rows; taken as given, because the paper does not normalise them.
        mask_B: bool, True where the row has a feature; None means everywhere. Rows without one may hold anything, NaN
            included, in both tensors, and leave value and gradient alone. Without any True row the loss is 0.
    """
    _require_equal_shapes(student_BD, teacher_BD, mask_B)
    with _no_autocast(student_BD):
        student_BD, teacher_BD = _fill(_widen(student_BD), mask_B, 1.0), _fill(_widen(teacher_BD), mask_B, 0.0)
        error_BD = (_unit(student_BD) - teacher_BD).square()
        if mask_B is None:
            return error_BD.mean()
        return _fill(error_BD, mask_B, 0.0).sum() / (mask_B.sum().clamp(min=1) * error_BD.shape[1])


def interactive_loss(
    image_BE: Tensor,
    text_BE: Tensor,
    teacher_image_BD: Tensor,
    teacher_text_BD: Tensor,
    scale: Tensor | float,
    *,
    mask_B: Tensor | None = None,
) -> Tensor:
    """Return the interactive contrastive loss: student images against teacher texts, and the reverse.

    Args:
        image_BE: student's image embeddings; L2-normalised here.
        text_BE: student's text embeddings; L2-normalised here.
        teacher_image_BD: projected image features, taken as given.
        teacher_text_BD: projected text features, taken as given.
        scale: multiplier of the products; ``PAPER_INTERACTIVE_SCALE`` is the released code's.
        mask_B: bool, True where the row has features; the others are neither queries nor candidates, as if they were
            not in the batch.
    """
    _require_equal_shapes(image_BE, teacher_text_BD, mask_B)
    _require_equal_shapes(text_BE, teacher_image_BD, mask_B)
    with _no_autocast(image_BE):
        image_loss = _interactive_side(image_BE, teacher_text_BD, scale, mask_B)
        return (image_loss + _interactive_side(text_BE, teacher_image_BD, scale, mask_B)) / 2


def paper_loss(
    image_BE: Tensor,
    text_BE: Tensor,
    teacher_image_BE: Tensor,
    teacher_text_BE: Tensor,
    logit_scale: Tensor | float,
    *,
    feature_weight: float = 50.0,
    interactive_weight: float = 1.0,
    interactive_scale: Tensor | float = PAPER_INTERACTIVE_SCALE,
    mask_B: Tensor | None = None,
) -> PaperLoss:
    """Return the stage-2 loss of MMKD-CLIP: task + feature_weight * feature + interactive_weight * interactive.

    The defaults are the released configuration. The feature term is the sum of the image and the text side.

    Args:
        image_BE: student's image embeddings, not necessarily normalised.
        text_BE: student's text embeddings, not necessarily normalised.
        teacher_image_BE: image features of the teacher drawn for each row, projected to the student's width.
        teacher_text_BE: text features of the same teachers.
        logit_scale: multiplier of the student's own cosines, already exponentiated.
        feature_weight: weight of the feature loss.
        interactive_weight: weight of the interactive loss.
        interactive_scale: ``PAPER_INTERACTIVE_SCALE`` reproduces the released code, ``CORRECTED_INTERACTIVE_SCALE`` or
            a learned tensor repairs it.
        mask_B: bool, True where a teacher was available; the task loss always counts every row.
    """
    task = clip_loss(image_BE, text_BE, logit_scale)
    feature = feature_loss(image_BE, teacher_image_BE, mask_B) + feature_loss(text_BE, teacher_text_BE, mask_B)
    interactive = interactive_loss(
        image_BE, text_BE, teacher_image_BE, teacher_text_BE, interactive_scale, mask_B=mask_B
    )
    total = task + feature_weight * feature + interactive_weight * interactive
    return PaperLoss(task_loss=task, feature_loss=feature, interactive_loss=interactive, total=total)


def _interactive_side(student_BE: Tensor, teacher_BE: Tensor, scale: Tensor | float, mask_B: Tensor | None) -> Tensor:
    student_BE, teacher_BE = _fill(_widen(student_BE), mask_B, 1.0), _fill(_widen(teacher_BE), mask_B, 0.0)
    logits_BB = _widen_scale(scale) * (_unit(student_BE) @ teacher_BE.T)
    target_B = torch.arange(len(logits_BB), device=logits_BB.device)
    if mask_B is None:
        return functional.cross_entropy(logits_BB, target_B)
    # The lowest finite number instead of -inf: a batch without any feature would give NaN gradients otherwise.
    logits_BB = logits_BB.masked_fill(~mask_B, torch.finfo(logits_BB.dtype).min)
    target_B = target_B.masked_fill(~mask_B, -100)
    loss_sum = functional.cross_entropy(logits_BB, target_B, ignore_index=-100, reduction="sum")
    return loss_sum / mask_B.sum().clamp(min=1)


def _no_autocast(like: Tensor) -> torch.autocast:
    return torch.autocast(device_type=like.device.type, enabled=False)


def _widen(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _widen_scale(scale: Tensor | float) -> Tensor | float:
    return _widen(scale) if isinstance(scale, Tensor) else scale


def _unit(rows_BE: Tensor) -> Tensor:
    return functional.normalize(rows_BE, dim=-1)


def _fill(rows_BD: Tensor, mask_B: Tensor | None, value: float) -> Tensor:
    """Replace the rows that are False; before any arithmetic, because 0 * NaN is NaN, also in a gradient."""
    return rows_BD if mask_B is None else rows_BD.masked_fill(~mask_B[:, None], value)


def _require_equal_shapes(one: Tensor, other: Tensor, mask_B: Tensor | None = None) -> None:
    if one.ndim != 2 or one.shape != other.shape:
        raise ValueError(
            f"expected two (rows, width) tensors of equal shape, got {(*one.shape,)} and {(*other.shape,)}"
        )
    if mask_B is not None and (mask_B.dtype != torch.bool or mask_B.shape != one.shape[:1]):
        raise ValueError(f"expected a bool mask of shape ({len(one)},), got {mask_B.dtype} {(*mask_B.shape,)}")
