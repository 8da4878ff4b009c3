"""The objective that a run minimises: a module of embeddings and targets, which may have parameters of its own.

An objective is called on each rank with the embeddings of that rank's rows. Its parameters are trained and saved in
checkpoints; an export leaves them out.

Axes: B batch rows of this rank, E student width.
"""

from __future__ import annotations

import abc
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from train.data.targets import Targets

from .contrastive import clip_loss
from .gather import Across

MAX_LOGIT_SCALE = 100.0
"""Bound of CLIP on the multiplier of the cosines; training becomes unstable beyond it."""


class Given(NamedTuple):
    """Facts about a batch that an objective gets beside the embeddings.

    Attributes:
        rows_B: store rows of this rank; with the step they seed what is random in a loss.
        step: of the run.
        targets: None without teachers.
    """

    rows_B: npt.NDArray[np.int64]
    step: int
    targets: Targets | None


class Objective(nn.Module, abc.ABC):
    """A loss with its terms."""

    @abc.abstractmethod
    def forward(self, image_BE: Tensor, text_BE: Tensor, logit_scale: Tensor, given: Given) -> dict[str, Tensor]:
        """Return the terms as scalars; ``loss`` is the one to minimise.

        Args:
            image_BE, text_BE: student's embeddings of this rank's rows, not necessarily normalised.
            logit_scale: multiplier of the student's cosines, already exponentiated.
        """


class TaskObjective(Objective):
    """CLIP's own loss, without any teacher."""

    def forward(self, image_BE: Tensor, text_BE: Tensor, logit_scale: Tensor, given: Given) -> dict[str, Tensor]:
        """Return the loss alone."""
        del given
        return {"loss": clip_loss(image_BE, text_BE, logit_scale, across=Across.current())}
