"""Questions about images as arrays, and the input of a head.

Axes: N questions, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluate.datasets.labels import YES_NO
from store.errors import EvaluationError

from .inputs import Array, unit_norm
from .texts import normalised


@dataclass(kw_only=True, frozen=True, slots=True)
class Questions:
    """A split of questions about images.

    Attributes:
        image: (N, E) embeddings; an image with several questions is repeated.
        question: (N, E) embeddings.
        images: N names of images (or patients): all questions of one stay in the same split.
        closed: (N,) whether the answer is yes, no or another choice that the question names; decided by the answer if
            None.
    """

    ids: Sequence[str]
    image: Array
    question: Array
    answers: Sequence[str]
    images: Sequence[str]
    closed: Array | None = None

    def __post_init__(self) -> None:
        """Check that everything has the same length, and that embeddings can be compared."""
        names = ("ids", "image", "question", "answers", "images")
        lengths = {name: len(getattr(self, name)) for name in names}
        if self.closed is not None:
            lengths["closed"] = len(self.closed)
        if len(set(lengths.values())) > 1:
            raise EvaluationError(f"the parts of a split of questions differ in length: {lengths}")
        if self.image.shape[1:] != self.question.shape[1:]:
            raise EvaluationError(
                f"images are embedded as {self.image.shape[1:]}, questions as {self.question.shape[1:]}"
            )

    @property
    def is_closed(self) -> npt.NDArray[np.bool_]:
        """Return whether each question is a closed one."""
        if self.closed is not None:
            return np.asarray(self.closed, bool)
        return np.array([normalised(answer) in YES_NO for answer in self.answers])


def fused(split: Questions, *, what: str) -> npt.NDArray[np.float32]:
    """Return [u; v; u*v; |u-v|] of every question, (N, 4E), of the embeddings u of its image and v of its words.

    u and v are scaled to the length sqrt(E): their entries, and those of product and difference, are then all near 1.
    """
    width = np.sqrt(split.image.shape[1])
    u_NE = width * unit_norm(split.image, what=f"{what} image embeddings")
    v_NE = width * unit_norm(split.question, what=f"{what} question embeddings")
    return np.concatenate([u_NE, v_NE, u_NE * v_NE, np.abs(u_NE - v_NE)], axis=1).astype(np.float32)
