"""Losses between a student's embeddings and teachers' features, as pure functions.

They know neither models nor stores, and other ranks only through `Across`. Half precision inputs are converted to
float32; float64 stays float64. Inside an autocast region only products of rows are rounded (``optimization.logits``).

Axes: B rows of this rank, N rows of all ranks, D teacher width, E student width.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from .contrastive import contrast_sum, require_equal_shapes, unit, widen
from .gather import ALONE, Across

PAPER_INTERACTIVE_SCALE = 2.6592600345611572
"""Logit scale of the interactive loss in the released MMKD-CLIP code: ln(1/0.07), rounded to float32.

The released code stores the logarithm of the scale, as CLIP does, but multiplies the cosines by it without the
exponential, and does not train it, so it stays constant. The value is that of the float32 parameter; the float64
logarithm differs in the ninth digit.
"""

CORRECTED_INTERACTIVE_SCALE = 1 / 0.07
"""Logit scale that the released code evidently meant, 14.29: the exponential of the parameter."""


def feature_loss(student_BD: Tensor, teacher_BD: Tensor, *, across: Across = ALONE) -> Tensor:
    """Return the mean squared error between unit-norm embeddings and teacher features, over all elements.

    With r the norm of a feature, the squared distance of a row is 1 + r^2 - 2 r cos: the gradient grows with r. Without
    any row the loss is 0.

    Args:
        student_BD: student's embeddings of one side; L2-normalised here.
        teacher_BD: projected features of the same rows; taken as given, because the paper does not normalise them.
        across: ranks whose rows count too.
    """
    require_equal_shapes(student_BD, teacher_BD)
    total = (unit(student_BD) - widen(teacher_BD)).square().sum()
    return across.mean(total, student_BD.numel())


def interactive_sum(
    image_BE: Tensor,
    text_BE: Tensor,
    teacher_image_BD: Tensor,
    teacher_text_BD: Tensor,
    scale: Tensor | float,
    *,
    across: Across = ALONE,
) -> tuple[Tensor, int]:
    """Return the interactive contrastive loss of this rank as a sum of cross entropies, and their count.

    It contrasts student images with teacher texts, and the reverse.

    Args:
        image_BE, text_BE: student's embeddings; L2-normalised here.
        teacher_image_BD, teacher_text_BD: projected features, taken as given.
        scale: multiplier of the products; ``PAPER_INTERACTIVE_SCALE`` is the released code's.
        across: ranks whose rows are candidates too.
    """
    require_equal_shapes(image_BE, teacher_text_BD)
    require_equal_shapes(text_BE, teacher_image_BD)
    teacher = across.gather([widen(side) for side in (teacher_image_BD, teacher_text_BD)])
    image_BE, text_BE = across.queries([unit(image_BE), unit(text_BE)])
    total = contrast_sum(image_BE, teacher[1].every, scale, first=teacher[1].first)
    total = total + contrast_sum(text_BE, teacher[0].every, scale, first=teacher[0].first)
    return total, 2 * len(image_BE)


def relation_sum(student_BN: Tensor, teacher_BN: Tensor) -> Tensor:
    """Return the summed divergence KL(softmax of the teacher's logits || softmax of the student's) of all rows."""
    student_BN, teacher_BN = widen(student_BN).log_softmax(dim=1), widen(teacher_BN).log_softmax(dim=1)
    return functional.kl_div(student_BN, teacher_BN, reduction="sum", log_target=True)
