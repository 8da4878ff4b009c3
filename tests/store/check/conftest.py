"""A store that the tests of checks share."""

from __future__ import annotations

import pytest

from store.format.records import Status


@pytest.fixture
def full(units):
    """Three ranges of alpha, row 5 without image; one range of beta."""
    return units.fill({1: Status.BAD_IMAGE, 2: Status.NOT_APPLICABLE})
