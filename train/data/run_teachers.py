"""Which teachers teach a student, from the beginning of its run to the end, whatever becomes of a store that grows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from store.read.reader import FeatureStore
from store.read.selection import Selection
from train.runtime.ranks import Ranks


@dataclass(kw_only=True, frozen=True, slots=True)
class Teaching:
    """The teachers of one run.

    A teacher of which nothing was committed when the run began stays out of it: there was no feature to fit its
    statistics or projection to, and a run that goes on must have the teachers that it began with.

    Attributes:
        selection: of the pipeline.
        names: the teachers, in the store's order.
    """

    selection: Selection
    names: tuple[str, ...]

    @classmethod
    def of_run(cls, store: FeatureStore, selection: Selection, identity: Mapping[str, Any]) -> Self:
        """Return the teachers of a run.

        Args:
            store: where features are.
            selection: of the pipeline.
            identity: of the run as it was when it began.
        """
        begun = identity["store"]["ranges"]
        allowed = [name for name in store.teachers if selection == "all" or name in selection]
        return cls(selection=selection, names=tuple(name for name in allowed if begun.get(name)))

    def among(self, names: Collection[str]) -> Self:
        """Return those of the teachers that are among some."""
        return replace(self, names=tuple(name for name in self.names if name in names))

    def available(self, store: FeatureStore) -> npt.NDArray[np.bool_]:
        """Return which of the teachers may teach which row of the store as of some time, (N, T)."""
        # The selection names teachers that are not of this run too, so it is asked about all.
        available_NT = store.available(self.selection)
        found: npt.NDArray[np.bool_] = available_NT[:, [store.teachers.index(name) for name in self.names]]
        return found


def seen_alike(store: FeatureStore, ranks: Ranks) -> FeatureStore:
    """Return the store as the first process sees it: another one, a moment later, may see more of it committed."""
    if ranks.world_size == 1:
        return store
    ranges = {name: sorted(store.receipts(name)) for name in store.teachers}
    first = ranks.from_first(lambda: ranges)
    return store if first == ranges else store.as_of(first)
