"""The teachers of a run: they stay the same from its beginning to its end, also where the store grows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from store.read.reader import FeatureStore
from store.read.selection import Selection


@dataclass(kw_only=True, frozen=True, slots=True)
class RunTeachers:
    """The teachers of one run.

    A teacher without a committed range at the beginning takes no part: there was no feature to fit its statistics or
    projection to, and a resumed run must have the teachers that it began with.

    Attributes:
        names: in the store's order.
    """

    selection: Selection
    names: tuple[str, ...]

    @classmethod
    def of_run(cls, store: FeatureStore, selection: Selection, identity: Mapping[str, Any]) -> Self:
        """Return the teachers of the run whose identity was ``identity`` when it began."""
        begun = identity["store"]["ranges"]
        allowed = [name for name in store.teachers if selection == "all" or name in selection]
        return cls(selection=selection, names=tuple(name for name in allowed if begun.get(name)))

    def among(self, names: Collection[str]) -> Self:
        """Return the teachers whose names are also in ``names``."""
        return replace(self, names=tuple(name for name in self.names if name in names))

    def available(self, store: FeatureStore) -> npt.NDArray[np.bool_]:
        """Return which teacher may teach which row of a store, (N, T)."""
        # The selection may name teachers outside this run, so it is applied to all of the store's.
        available_NT = store.available(self.selection)
        found: npt.NDArray[np.bool_] = available_NT[:, [store.teachers.index(name) for name in self.names]]
        return found
