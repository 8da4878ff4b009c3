"""The distinct captions of a range: each is tokenised once per tokenizer, and encoded once per teacher."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from store.texts.tokens import Encoded

from .stages import Clock

if TYPE_CHECKING:
    from extract.teachers.base import FrozenTeacher


class DistinctCaptions:
    """The distinct captions of some rows.

    Args:
        captions_N: None or empty where a row has none.

    Attributes:
        texts: K captions.
        rows: rows that have a caption.
        of_rows: places of their captions in ``texts``.
    """

    def __init__(self, captions_N: npt.NDArray[np.object_]) -> None:
        self.texts: list[str] = list(dict.fromkeys(caption for caption in captions_N if caption))
        place = {caption: number for number, caption in enumerate(self.texts)}
        self.rows = np.flatnonzero([bool(caption) for caption in captions_N])
        self.of_rows = np.array([place[captions_N[row]] for row in self.rows], np.int64)
        self._tokens: dict[Hashable, Encoded] = {}

    def tokens(self, teacher: FrozenTeacher, clock: Clock) -> Encoded:
        """Return the captions' tokens as a teacher reads them, K rows; teachers with the same tokenizer share them."""
        key = teacher.tokenizer_key
        if key not in self._tokens:
            with clock("tokenize"):
                self._tokens[key] = teacher.tokenize(self.texts)
        return self._tokens[key]
