"""Byte pair merges in bounded time, for open_clip's tokenizer, which this module need not import."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import pairwise
from typing import Any

CACHED_LETTERS = 64
"""Longest word whose tokens are remembered."""


class BoundedBpe:
    """Stands before open_clip's ``SimpleTokenizer`` among the bases of a class, and gives the same tokens.

    Its time grows with n log n of a word's n letters; the original's grows with their square.
    A word of 6,000 letters, which a damaged export has, takes that minutes and this milliseconds.
    """

    cache: dict[str, str]
    bpe_ranks: dict[Any, int]
    byte_encoder: dict[int, str]
    encoder: dict[str, int]
    pat: Any
    clean_fn: Callable[[str], str]
    reduction_fn: Any
    context_length: int

    def bpe(self, token: str) -> str:
        """Return a word's tokens, separated by spaces.

        The pair of the best rank is merged first, and of equal ones the leftmost. A merged pair only forms pairs of a
        later rank, because the ranks are the order in which the vocabulary grew; so a queue gives the same result.
        """
        if token in self.cache:
            return self.cache[token]
        parts: list[str | None] = [*token[:-1], f"{token[-1]}</w>"]
        after, before = [*range(1, len(parts)), -1], [*range(-1, len(parts) - 1)]
        ranks = self.bpe_ranks
        queue = [(ranks[pair], place) for place, pair in enumerate(pairwise(parts)) if pair in ranks]
        heapq.heapify(queue)
        while queue:
            rank, place = heapq.heappop(queue)
            following = after[place]
            if parts[place] is None or following < 0 or ranks.get((parts[place], parts[following])) != rank:
                continue
            parts[place] = f"{parts[place]}{parts[following]}"
            parts[following] = None
            after[place] = after[following]
            if after[place] >= 0:
                before[after[place]] = place
            for left in (before[place], place):
                pair = (parts[left], parts[after[left]]) if left >= 0 and after[left] >= 0 else None
                if pair in ranks:
                    heapq.heappush(queue, (ranks[pair], left))
        merged = " ".join(part for part in parts if part is not None)
        if len(token) <= CACHED_LETTERS:
            self.cache[token] = merged
        return merged

    def encode(self, text: str) -> list[int]:
        """Return a text's ids without special ones, and no more than one beyond what the context holds."""
        ids: list[int] = []
        for word in self.pat.finditer(self.clean_fn(text)):
            letters = "".join(self.byte_encoder[byte] for byte in word.group().encode("utf-8"))
            ids.extend(self.encoder[part] for part in self.bpe(letters).split(" "))
            if self.reduction_fn is None and len(ids) >= self.context_length:
                break
        return ids
