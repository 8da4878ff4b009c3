"""Images of a store's rows for people and other programs: the corpus's, or the store's own where the corpus is gone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from store.corpus.read_ahead import ReadAhead, Take
from store.errors import CorpusError, IncompleteStoreError, LocationError, PairDecodeError
from store.read.reader import FeatureStore

log = logging.getLogger(__name__)

RequestImages: TypeAlias = Callable[[Sequence[Mapping[str, Any]]], list[Take]]
"""Returns what reads the image file of each of some pairs, given ``row``, ``uri`` and ``member``; see `ReadAhead`."""


def image_requests(store: FeatureStore, ahead: ReadAhead, *, first_row: int) -> RequestImages:
    """Return what reads images: from the corpus, or from the store if the corpus does not have the first one.

    One for all rows, because the store's images are smaller than the corpus's.

    Args:
        ahead: reads the store's corpus.
    """

    def from_corpus(pairs: Sequence[Mapping[str, Any]]) -> list[Take]:
        return ahead.request([{"uri": pair["uri"], "member": pair["member"]} for pair in pairs])

    def from_store(pairs: Sequence[Mapping[str, Any]]) -> list[Take]:
        return [partial(store.pixels.fetch, pair["row"]) for pair in pairs]

    found = store.pairs.read(first_row, store.info.bounds(first_row // store.info.range_rows)[1], ["uri", "member"])
    pair = next((pair for pair in found.to_pylist() if pair["uri"] is not None), None)
    try:
        if pair:
            store.images.fetch(pair["uri"], pair["member"])
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
