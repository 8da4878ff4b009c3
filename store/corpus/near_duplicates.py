"""Images that look alike: a difference hash of 64 bits, and a search for hashes within a Hamming distance."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt
from PIL import Image

HASH_BITS = 64

MAX_DISTANCE = 8
"""Largest distance that the search accepts: beyond it the bands that must be equal become too narrow."""


def difference_hash(image: Image.Image) -> int:
    """Return the difference hash of an image: 64 bits, each whether a pixel is brighter than its left neighbour.

    The image is reduced to 9 x 8 grey pixels first (Neal Krawetz, "Kind of Like That", 2013). It stays the same under
    scaling and recompression; cropping, turning and mirroring change it.
    """
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


def first_of_alike(
    hashes_N: npt.NDArray[np.uint64], *, max_distance: int, known_K: npt.NDArray[np.uint64] | None = None
) -> npt.NDArray[np.bool_]:
    """Return (N,) whether each hash is farther than a distance from every earlier one that was kept.

    Two hashes at most d bits apart are equal in at least one of d + 1 bands of their bits, so only hashes that share a
    band are compared: exact, and far less than all pairs.

    Args:
        hashes_N: in the order in which the first is kept.
        known_K: hashes that are kept already.
    """
    bands = np.array_split(np.arange(HASH_BITS, dtype=np.uint64), max_distance + 1)
    shifts = [(band[0], np.uint64((1 << len(band)) - 1)) for band in bands]
    buckets: list[dict[int, _Growing]] = [defaultdict(_Growing) for _ in bands]
    kept_N = np.zeros(len(hashes_N), dtype=bool)

    def places(value: np.uint64) -> list[_Growing]:
        return [bucket[int((value >> shift) & mask)] for bucket, (shift, mask) in zip(buckets, shifts, strict=True)]

    for value in known_K if known_K is not None else ():
        for place in places(value):
            place.append(value)
    for position, value in enumerate(hashes_N):
        shared = places(value)
        if any(place.has_within(value, max_distance) for place in shared):
            continue
        kept_N[position] = True
        for place in shared:
            place.append(value)
    return kept_N


class _Growing:
    """Hashes that share a band, in an array that doubles."""

    def __init__(self) -> None:
        self._values, self._used = np.empty(4, np.uint64), 0

    def append(self, value: np.uint64) -> None:
        if self._used == len(self._values):
            self._values = np.concatenate([self._values, np.empty_like(self._values)])
        self._values[self._used] = value
        self._used += 1

    def has_within(self, value: np.uint64, distance: int) -> bool:
        if not self._used:
            return False
        return bool((np.bitwise_count(self._values[: self._used] ^ value) <= distance).any())
