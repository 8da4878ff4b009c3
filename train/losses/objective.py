"""What a run minimizes: a module of embeddings and targets, which may have parameters of its own.

An objective is called on each rank with the embeddings of that rank's rows. The loop gives its parameters to the
optimizer and into checkpoints; an export leaves them out.

Axes: B batch rows of this rank, E student width.
"""

from __future__ import annotations

import abc

from torch import Tensor, nn

from train.data.batches import Batch

from .contrastive import clip_loss
from .gather import Across

MAX_LOGIT_SCALE = 100.0
"""CLIP's bound on the multiplier of the cosines; beyond it training becomes unstable."""


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
        return {"loss": clip_loss(image_BE, text_BE, logit_scale, across=Across.current())}
