"""Finds by halving which rows of a range kill the process that works on them. Pure; others try the rows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Suspects:
    """Neighbouring rows; among guilty ones there must be a killer, and of a first half the other half is next."""

    rows: range
    guilty: bool = False
    first_half: bool = False


class KillerSearch:
    """Says which rows to try next, and is told whether the process survived.

    A row counts as a killer once a process died of it alone. Rows that a process survives are innocent. If it survives
    the first half of guilty rows, the second half is guilty without a try, because each death costs a worker.

    Args:
        max_killers: with more killers the search gives up, because then the rows are not to blame.

    Attributes:
        killers: what the process died of, by killer row.
    """

    def __init__(self, rows: range, *, max_killers: int) -> None:
        self._stack = [_Suspects(rows, guilty=True)]
        self._trying: _Suspects | None = None
        self._max_killers = max_killers
        self.killers: dict[int, str] = {}

    @property
    def gave_up(self) -> bool:
        """Return whether there are too many killers to believe that the rows are to blame."""
        return len(self.killers) > self._max_killers

    def next(self) -> range | None:
        """Return the rows to try, the same ones until the result is known; None when the search is over."""
        if self.gave_up:
            return None
        while self._trying is None and self._stack:
            suspects = self._stack.pop()
            if suspects.guilty and len(suspects.rows) > 1:
                middle = len(suspects.rows) // 2
                self._stack.append(_Suspects(suspects.rows[middle:]))
                self._stack.append(_Suspects(suspects.rows[:middle], first_half=True))
            else:
                self._trying = suspects
        return self._trying.rows if self._trying else None

    def survived(self) -> None:
        """Note that a process survived the rows to try."""
        tried, self._trying = self._trying, None
        if tried and tried.first_half:
            self._stack[-1].guilty = True

    def died(self, of: str) -> None:
        """Note that a process died or hung at the rows to try."""
        tried, self._trying = self._trying, None
        if tried and len(tried.rows) == 1:
            self.killers[tried.rows[0]] = of
        elif tried:
            self._stack.append(_Suspects(tried.rows, guilty=True))
