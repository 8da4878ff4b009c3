"""A store whose units are all there, in a folder and on object storage."""

from __future__ import annotations

import pytest

from store.format.pairs import PairTable
from store.io.location import locate
from tests.store import damage


@pytest.fixture(params=["folder", "memory"])
def full(units, request, tmp_path):
    """Ten rows in ranges of four, chunks of two, all committed by one teacher."""
    if request.param == "memory":
        units.location = damage.copy(units.location, locate(f"memory://read/{tmp_path.name}"))
        units.pairs = PairTable(units.location, units.info)
    units.register()
    for range_id in range(3):
        units.commit(range_id)
    return units
