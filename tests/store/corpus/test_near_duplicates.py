"""Difference hashes and the search for near ones, against a comparison of all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from store.corpus.near_duplicates import difference_hash, first_of_alike


def by_all_pairs(hashes, max_distance, known=()):
    kept = list(known)
    flags = []
    for value in hashes:
        near = any(int(value ^ other).bit_count() <= max_distance for other in kept)
        flags.append(not near)
        if not near:
            kept.append(value)
    return flags


@pytest.mark.parametrize("max_distance", [0, 1, 3, 8])
def test_the_search_finds_what_a_comparison_of_all_pairs_finds(max_distance):
    rng = np.random.default_rng(max_distance)
    seeds = rng.integers(0, 2**63, 20, dtype=np.uint64)
    bits = [np.uint64(1) << rng.integers(0, 64, number % 12, dtype=np.uint64) for number in range(300)]
    hashes = rng.choice(seeds, 300) ^ np.array([np.bitwise_or.reduce(one) for one in bits]).astype(np.uint64)
    known = hashes[:5] ^ np.uint64(1)
    found = first_of_alike(hashes, max_distance=max_distance, known_K=known)
    assert found.tolist() == by_all_pairs([int(h) for h in hashes], max_distance, [int(h) for h in known])
    assert 0 < found.sum() < 300


def test_a_hash_says_which_pixel_is_brighter_than_its_left_neighbour():
    rising = Image.fromarray(np.tile(np.arange(9, dtype=np.uint8) * 20, (8, 1)))
    assert difference_hash(rising) == 2**64 - 1
    assert difference_hash(rising.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == 0
    left = np.zeros((8, 9), np.uint8)
    left[0, 1:] = 255
    assert difference_hash(Image.fromarray(left)) == 1 << 63


def test_a_hash_survives_scaling():
    drawn = np.random.default_rng(0).integers(0, 255, (8, 9)).astype(np.uint8)
    image = Image.fromarray(drawn).resize((90, 80), Image.Resampling.NEAREST)
    assert difference_hash(image) == difference_hash(Image.fromarray(drawn))
    assert difference_hash(image.convert("RGB")) == difference_hash(image)
