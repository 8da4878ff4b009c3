"""Which rows of a range kill the process that works on them: found by halving. Pure; others do the trying."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Suspects:
    """Neighbouring rows among which there may be a killer.

    Attributes:
        rows: which.
        guilty: there must be one: a process died of rows that held these, and survived the others.
        first_half: the other half waits behind it.
    """

    rows: range
    guilty: bool = False
    first_half: bool = False


class KillerSearch:
    """Says which rows to try next, and is told whether the process survived.

    A row counts as a killer once a process died of it alone. Halves that a process survives are innocent; where it
    survives the first half of guilty rows, the second is guilty without a try, because each death costs a worker.

    Args:
        rows: of a range of which workers died.
        max_killers: after so many killers the search gives up: then it is not the rows.

    Attributes:
        killers: what was found, with what the process died of.
    """

    def __init__(self, rows: range, *, max_killers: int) -> None:
        self._stack = [_Suspects(rows, guilty=True)]
        self._trying: _Suspects | None = None
        self._max_killers = max_killers
        self.killers: dict[int, str] = {}

    @property
    def gave_up(self) -> bool:
        """Whether there are too many killers to believe that the rows are to blame."""
        return len(self.killers) > self._max_killers

    def next(self) -> range | None:
        """Return the rows to try, the same until the result is told; None when the search is over."""
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
        """Tell that a process came through the rows that were to be tried."""
        tried, self._trying = self._trying, None
        if tried and tried.first_half:
            self._stack[-1].guilty = True

    def died(self, of: str) -> None:
        """Tell that a process died, or hung, at the rows that were to be tried."""
        tried, self._trying = self._trying, None
        if tried and len(tried.rows) == 1:
            self.killers[tried.rows[0]] = of
        elif tried:
            self._stack.append(_Suspects(tried.rows, guilty=True))
