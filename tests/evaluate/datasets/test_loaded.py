"""Splits in memory: what of them belongs together."""

from __future__ import annotations

import pytest

from evaluate.datasets.loaded import Bag, Split


def split(**columns):
    return Split(name="test", ids=[f"i{item}" for item in range(5)], **columns)


@pytest.mark.parametrize(
    ("columns", "clusters"),
    [
        ({}, None),
        ({"image_digests": list("abcde")}, None),
        ({"patients": list("abcde")}, ["i0", "i1", "i2", "i3", "i4"]),
        ({"patients": list("aabbc")}, ["i0", "i0", "i2", "i2", "i4"]),
        ({"image_digests": list("abcda")}, ["i0", "i1", "i2", "i3", "i0"]),
        # The first and the last item are linked by two patients and an image between them.
        ({"patients": list("aabbc"), "image_digests": list("pqqrs")}, ["i0", "i0", "i0", "i0", "i4"]),
        (
            {"bags": [Bag(digests=tuple(digests)) for digests in ("xy", "x", "y", "xy", "z")]},
            ["i0", "i1", "i2", "i0", "i4"],
        ),
    ],
)
def test_items_that_share_a_patient_an_image_or_a_bag_are_one_cluster(columns, clusters):
    assert split(**columns).clusters == clusters


def test_some_of_the_items_keep_only_their_own_links():
    whole = split(patients=list("aabbc"), image_digests=list("pqqrs"))
    assert whole.take([0, 3]).clusters == ["i0", "i3"]
