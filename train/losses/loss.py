"""Losses of the two stages, as pure functions of embeddings and features.

They know nothing of models or stores, and of other ranks only what `Across` tells. Each one computes in float32, or
float64 where it is given that, also inside an autocast region: half precision inputs are widened first.

Axes: B rows of this rank, N rows of all ranks, D teacher width, E student width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .gather import ALONE, Across, Gathered

PAPER_INTERACTIVE_SCALE = 2.6592600345611572
"""Logit scale of the interactive loss in the released MMKD-CLIP code: ln(1/0.07), rounded to float32.

The released code creates the parameter as CLIP does, holding the *log* of the scale, but multiplies the cosines with it
without the exponential, and never hands it to the optimizer: it stays this constant. The value is that of the float32
parameter; the logarithm in float64 differs in the ninth digit.
"""

CORRECTED_INTERACTIVE_SCALE = 1 / 0.07
"""Logit scale that the released code evidently meant, 14.29: the exponential of the parameter."""


def clip_loss(image_BE: Tensor, text_BE: Tensor, logit_scale: Tensor | float, *, across: Across = ALONE) -> Tensor:
    """Return the symmetric InfoNCE loss of CLIP between matching rows.

    Args:
        image_BE: student's image embeddings; L2-normalised here.
        text_BE: student's text embeddings; L2-normalised here.
        logit_scale: multiplier of the cosines, already exponentiated.
        across: ranks whose rows are candidates too.
    """
    _require_equal_shapes(image_BE, text_BE)
    with no_autocast(image_BE):
        image, text = across.gather([unit(image_BE), unit(text_BE)])
        return contrast(image, text, logit_scale, across=across)


def contrast(image: Gathered, text: Gathered, scale: Tensor | float, *, across: Across = ALONE) -> Tensor:
    """Return the mean cross entropy of finding the other side of a pair, in both directions.

    Args:
        image: rows of one side, taken as given.
        text: of the other.
        scale: multiplier of the products.
        across: ranks that they come from.
    """
    total = contrast_sum(image.queries, text.every, scale, first=text.first)
    total = total + contrast_sum(text.queries, image.every, scale, first=image.first)
    return across.mean(total, 2 * len(image.queries))


def contrast_sum(query_BE: Tensor, candidate_NE: Tensor, scale: Tensor | float, *, first: int = 0) -> Tensor:
    """Return the summed cross entropy of finding candidate ``first + b`` by query ``b``; both are taken as given."""
    logits_BN = _widen_scale(scale) * (query_BE @ candidate_NE.T)
    target_B = torch.arange(first, first + len(logits_BN), device=logits_BN.device)
    return functional.cross_entropy(logits_BN, target_B, reduction="sum")


def feature_loss(
    student_BD: Tensor, teacher_BD: Tensor, mask_B: Tensor | None = None, *, across: Across = ALONE
) -> Tensor:
    """Return the mean squared error between unit-norm embeddings and teacher features, over all elements.

    With r the norm of a feature, the squared distance of a row is 1 + r^2 - 2 r cos: longer features pull harder.

    Args:
        student_BD: student's embeddings of one side; L2-normalised here.
        teacher_BD: projected features of the same rows; taken as given, because the paper does not normalise them.
        mask_B: bool, True where the row has a feature; None means everywhere. Rows without one may hold anything, NaN
            included, in both tensors, and leave value and gradient alone. Without any True row the loss is 0.
        across: ranks whose rows count too.
    """
    _require_equal_shapes(student_BD, teacher_BD, mask_B)
    with no_autocast(student_BD):
        student_BD, teacher_BD = _kept(student_BD, mask_B), _kept(teacher_BD, mask_B)
        total = (unit(student_BD) - widen(teacher_BD)).square().sum()
        return across.mean(total, student_BD.numel())


def interactive_loss(
    image_BE: Tensor,
    text_BE: Tensor,
    teacher_image_BD: Tensor,
    teacher_text_BD: Tensor,
    scale: Tensor | float,
    *,
    mask_B: Tensor | None = None,
    across: Across = ALONE,
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
        across: ranks whose rows are candidates too.
    """
    _require_equal_shapes(image_BE, teacher_text_BD, mask_B)
    student = _kept(image_BE, mask_B), _kept(text_BE, mask_B)
    teacher = _kept(teacher_image_BD, mask_B), _kept(teacher_text_BD, mask_B)
    total, count = interactive_sum(*student, *teacher, scale, across=across)
    return across.mean(total, count)


def interactive_sum(
    image_BE: Tensor,
    text_BE: Tensor,
    teacher_image_BD: Tensor,
    teacher_text_BD: Tensor,
    scale: Tensor | float,
    *,
    across: Across = ALONE,
) -> tuple[Tensor, int]:
    """Return what `interactive_loss` averages: the summed cross entropies of this rank, and how many they are."""
    _require_equal_shapes(image_BE, teacher_text_BD)
    _require_equal_shapes(text_BE, teacher_image_BD)
    with no_autocast(image_BE):
        teacher = across.gather([widen(side) for side in (teacher_image_BD, teacher_text_BD)])
        image_BE, text_BE = across.queries([unit(image_BE), unit(text_BE)])
        total = contrast_sum(image_BE, teacher[1].every, scale, first=teacher[1].first)
        total = total + contrast_sum(text_BE, teacher[0].every, scale, first=teacher[0].first)
        return total, 2 * len(image_BE)


def relation_sum(student_BN: Tensor, teacher_BN: Tensor) -> Tensor:
    """Return the summed divergence KL(softmax of the teacher's logits || softmax of the student's) of all rows."""
    student_BN, teacher_BN = student_BN.log_softmax(dim=1), teacher_BN.log_softmax(dim=1)
    return functional.kl_div(student_BN, teacher_BN, reduction="sum", log_target=True)


def no_autocast(like: Tensor) -> torch.autocast:
    """Return a region in which nothing is narrowed."""
    return torch.autocast(device_type=like.device.type, enabled=False)


def widen(value: Tensor) -> Tensor:
    """Return half precision values as float32, others as they are."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def unit(rows_BE: Tensor) -> Tensor:
    """Return rows of length 1, of at least float32."""
    return functional.normalize(widen(rows_BE), dim=-1)


def _widen_scale(scale: Tensor | float) -> Tensor | float:
    return widen(scale) if isinstance(scale, Tensor) else scale


def _kept(rows_BD: Tensor, mask_B: Tensor | None) -> Tensor:
    """Leave rows out that are False: what they hold, NaN perhaps, then takes part in no arithmetic."""
    return rows_BD if mask_B is None else rows_BD[mask_B]


def _require_equal_shapes(one: Tensor, other: Tensor, mask_B: Tensor | None = None) -> None:
    if one.ndim != 2 or one.shape != other.shape:
        raise ValueError(
            f"expected two (rows, width) tensors of equal shape, got {(*one.shape,)} and {(*other.shape,)}"
        )
    if mask_B is not None and (mask_B.dtype != torch.bool or mask_B.shape != one.shape[:1]):
        raise ValueError(f"expected a bool mask of shape ({len(one)},), got {mask_B.dtype} {(*mask_B.shape,)}")
