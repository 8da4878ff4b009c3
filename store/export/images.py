"""Images of a store's rows for people and other programs: the corpus's, or the store's own where the corpus is gone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from store.errors import CorpusError, IncompleteStoreError, LocationError, PairDecodeError
from store.read.reader import FeatureStore

log = logging.getLogger(__name__)

FetchImage: TypeAlias = Callable[[Mapping[str, Any]], bytes]
"""Returns the image file of a pair, given ``row``, ``uri`` and ``member``; raises as `ImageSource.fetch` does."""


def image_fetcher(store: FeatureStore, *, first_row: int) -> FetchImage:
    """Return what fetches images: from the corpus, or from the store if the corpus does not have the first one.

    One for all rows, because the store's images are smaller than the corpus's.
    """

    def from_corpus(pair: Mapping[str, Any]) -> bytes:
        return store.images.fetch(pair["uri"], pair["member"])

    def from_store(pair: Mapping[str, Any]) -> bytes:
        return store.pixels.fetch(pair["row"])

    found = store.pairs.read(first_row, store.info.bounds(first_row // store.info.range_rows)[1], ["uri", "member"])
    pair = next((pair for pair in found.to_pylist() if pair["uri"] is not None), None)
    try:
        if pair:
            from_corpus(pair)
    except PairDecodeError:
        return from_corpus
    except (CorpusError, LocationError) as error:
        try:
            kept = store.pixels.spec
        except IncompleteStoreError:
            return from_corpus
        log.warning(
            "%s; the store's own images are taken, with short sides of at most %d px", error, kept.short_side_px
        )
        return from_store
    return from_corpus
