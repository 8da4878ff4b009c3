"""Teachers' features of the rows of one batch.

Axes: B rows of a batch, K those that a teacher teaches, D a teacher's width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Self

import torch
from torch import Tensor


@dataclass(kw_only=True, slots=True, eq=False)
class TeacherTargets:
    """One teacher's features of the rows of a batch that it teaches.

    Attributes:
        image_KD, text_KD: features as stored: float16 or float32, unit norm; ``text_KD`` is None if the teacher encodes
            images alone.
        places_K: int64, the index of each row in the batch, ascending.
    """

    image_KD: Tensor
    text_KD: Tensor | None
    places_K: Tensor

    def mapped(self, change: Callable[[Tensor], Tensor], places_K: Tensor) -> TeacherTargets:
        """Return targets with changed features at other places."""
        text_KD = None if self.text_KD is None else change(self.text_KD)
        return TeacherTargets(image_KD=change(self.image_KD), text_KD=text_KD, places_K=places_K)


@dataclass(kw_only=True, slots=True, eq=False)
class Targets:
    """All teachers' features of a batch.

    Attributes:
        rows: B.
        teachers: by id, in a fixed order; teachers without a row in the batch are included.
    """

    rows: int
    teachers: Mapping[str, TeacherTargets]

    def part(self, begin: int, end: int) -> Self:
        """Return the rows ``begin`` to ``end``; features are not copied."""
        return self._between([begin, end])[0]

    def parts(self, rows: int) -> list[Self]:
        """Return consecutive parts of ``rows`` rows each."""
        return self._between(range(0, self.rows + 1, rows))

    def _between(self, edges: Sequence[int]) -> list[Self]:
        where = torch.tensor(edges)
        cuts = {name: torch.searchsorted(part.places_K, where).tolist() for name, part in self.teachers.items()}
        found = []
        for number, (begin, end) in enumerate(itertools.pairwise(edges)):
            teachers = {}
            for name, teacher in self.teachers.items():
                rows = slice(cuts[name][number], cuts[name][number + 1])
                teachers[name] = teacher.mapped(itemgetter(rows), teacher.places_K[rows] - begin)
            found.append(type(self)(rows=end - begin, teachers=teachers))
        return found

    def keep(self, keep_B: Tensor) -> Self:
        """Return the targets of the rows where ``keep_B`` is True, as if the batch had no others."""
        places_B = torch.cumsum(keep_B, 0) - 1
        found = {}
        for name, teacher in self.teachers.items():
            kept_K = keep_B[teacher.places_K]
            found[name] = teacher.mapped(itemgetter(kept_K), places_B[teacher.places_K[kept_K]])
        return type(self)(rows=int(keep_B.sum()), teachers=found)

    def to(self, device: torch.device | str) -> Self:
        """Return a copy on a device."""
        return self._moved(lambda part: part.to(device, non_blocking=True))

    def pinned(self) -> Self:
        """Return a copy that a card reads without a wait."""
        return self._moved(Tensor.pin_memory)

    def _moved(self, move: Callable[[Tensor], Tensor]) -> Self:
        found = {name: teacher.mapped(move, move(teacher.places_K)) for name, teacher in self.teachers.items()}
        return type(self)(rows=self.rows, teachers=found)
