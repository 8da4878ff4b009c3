"""The distinct captions of a range: each is tokenised once per tokenizer, and encoded once per teacher."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from store.texts.captions import has_word


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


def bad_captions(captions_N: npt.NDArray[np.object_]) -> dict[int, str]:
    """Return why some rows' captions cannot be used, by position."""
    bad: dict[int, str] = {}
    for position, caption in enumerate(captions_N):
        if not caption:
            bad[position] = "the caption is missing or empty"
        elif not has_word(caption):
            bad[position] = "the caption has no letter or digit"
    return bad
