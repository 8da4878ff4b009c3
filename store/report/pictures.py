"""Small images of some rows of a store, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from store.console import progress
from store.corpus.read_ahead import ReadAhead, Take
from store.errors import MMKDError, PairDecodeError, kind_of, shortened
from store.export.images import image_requests
from store.images.decode import decode_image
from store.images.thumbnail import thumbnail
from store.read.reader import FeatureStore

THREADS = 2
"""Images that are decoded at a time: each may take a quarter of a gigabyte."""

TRIES = 3
"""Images of which one must be there; else the corpus is elsewhere, and asking for the others would only take time."""

MOST_LETTERS = 6 * 2**20
"""Letters of all small images, so that a page stays below 10 MB."""


@dataclass(kw_only=True, slots=True)
class Pictures:
    """Small images.

    Attributes:
        by_row: JPEG in base64.
        missing: how many of the rows that were asked for have none.
        why: the first reason, if any is missing.
    """

    by_row: dict[int, str] = field(default_factory=dict)
    missing: int = 0
    why: str | None = None


def read_pictures(store: FeatureStore, pairs: Sequence[Mapping[str, Any]]) -> Pictures:
    """Return small images of some pairs, given ``row``, ``uri`` and ``member``, from the corpus or the store's own."""
    found = Pictures()
    if not pairs:
        return found
    with (
        ThreadPoolExecutor(THREADS) as pool,
        ReadAhead(store.images) as ahead,
        progress(len(pairs), label="images", noun="images") as advance,
    ):
        try:
            takes = image_requests(store, ahead, first_row=pairs[0]["row"])(pairs)
        except MMKDError as error:
            return Pictures(missing=len(pairs), why=_why(error))
        first = [_small(take) for take in takes[:TRIES]]
        rest = takes[TRIES:] if any(isinstance(one, str) for one in first) or _decoded(first) else []
        letters = 0
        for pair, image in zip(pairs, chain(first, pool.map(_small, rest)), strict=False):
            advance(1)
            letters += len(image) if isinstance(image, str) else 0
            if isinstance(image, MMKDError):
                found.why = found.why or _why(image)
            elif letters > MOST_LETTERS:
                found.why = found.why or "the page would become too large"
            else:
                found.by_row[pair["row"]] = image
    found.missing = len(pairs) - len(found.by_row)
    return found


def _small(take: Take) -> str | MMKDError:
    try:
        return thumbnail(decode_image(take()))
    except MMKDError as error:
        return error


def _decoded(tried: Sequence[str | MMKDError]) -> bool:
    return any(isinstance(one, PairDecodeError) for one in tried)


def _why(error: MMKDError) -> str:
    return shortened(kind_of(str(error)))
