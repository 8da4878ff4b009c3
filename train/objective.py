"""What a run minimizes: a module of embeddings and targets, which may have parameters of its own.

An objective is called on each rank with the embeddings of that rank's rows. The loop gives its parameters to the
optimizer and into checkpoints; an export leaves them out.

Axes: B batch rows of this rank, E student width.
"""

from __future__ import annotations

import abc

from torch import Tensor, nn

from .config import PaperRecipe
from .loss import CORRECTED_INTERACTIVE_SCALE, PAPER_INTERACTIVE_SCALE, clip_loss, paper_loss
from .stream import Batch


class Objective(nn.Module, abc.ABC):
    """What is minimized."""

    @abc.abstractmethod
    def forward(self, image_BE: Tensor, text_BE: Tensor, logit_scale: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the terms as scalars, with the one to minimize as ``loss``.

        Args:
            image_BE: student's image embeddings of this rank's rows, not necessarily normalised.
            text_BE: student's text embeddings of the same rows.
            logit_scale: multiplier of the student's cosines, already exponentiated.
            batch: of this rank.
        """


class TaskObjective(Objective):
    """CLIP's own loss, without any teacher."""

    def forward(self, image_BE: Tensor, text_BE: Tensor, logit_scale: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the loss alone."""
        del batch
        return {"loss": clip_loss(image_BE, text_BE, logit_scale)}


class PaperObjective(Objective):
    """The released MMKD-CLIP loss with a recipe's numbers."""

    def __init__(self, recipe: PaperRecipe) -> None:
        super().__init__()
        self._recipe = recipe
        self._scale = PAPER_INTERACTIVE_SCALE if recipe.interactive_scale == "log" else CORRECTED_INTERACTIVE_SCALE

    def forward(self, image_BE: Tensor, text_BE: Tensor, logit_scale: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted sum and its three terms."""
        if batch.targets is None:
            raise ValueError("the paper's loss needs batches with targets")
        terms = paper_loss(
            image_BE,
            text_BE,
            batch.targets.image_BE.to(image_BE.device),
            batch.targets.text_BE.to(image_BE.device),
            logit_scale,
            feature_weight=self._recipe.feature_weight,
            interactive_weight=self._recipe.interactive_weight,
            interactive_scale=self._scale,
            mask_B=batch.targets.mask_B.to(image_BE.device),
        )
        return {
            "loss": terms.total,
            "task_loss": terms.task_loss,
            "feature_loss": terms.feature_loss,
            "interactive_loss": terms.interactive_loss,
        }
