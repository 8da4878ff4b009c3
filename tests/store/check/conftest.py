"""A store that the tests of checks share."""

from __future__ import annotations

import pytest

from store.format.records import Status


@pytest.fixture
def full(units):
    """Three ranges of alpha, row 5 without image; one range of beta."""
    units.register()
    units.register("beta")
    for range_id in range(3):
        features = units.features(range_id)
        if range_id == 1:
            features.status[1] = Status.BAD_IMAGE
            features.status[2] = Status.NOT_APPLICABLE
        units.commit(range_id, features=features)
    units.commit(0, teacher="beta")
    return units
