"""Fetches files in order: one after the other where they come at once, on threads where each has to be waited for."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

THREADS, AHEAD = 16, 64
"""Files that are fetched at once, and results that are held in memory."""

TRIED, SLOW_S = 16, 2e-3
"""Files one after the other that have to take this long, in seconds, until threads fetch the rest."""

T = TypeVar("T")
U = TypeVar("U")


def in_order(fetch: Callable[[T], U], items: Iterable[T], *, is_near: Callable[[T], bool]) -> Iterator[U]:
    """Yield what each item is fetched as, in the order of the items.

    Args:
        is_near: whether an item lies on this machine, where threads would only make a quick disk slower.
    """
    rest, latest_s = iter(items), deque[float](maxlen=TRIED)
    for item in rest:
        if not is_near(item) or (len(latest_s) == TRIED and min(latest_s) >= SLOW_S):
            yield from _on_threads(fetch, itertools.chain([item], rest))
            return
        start = time.perf_counter()
        found = fetch(item)
        latest_s.append(time.perf_counter() - start)
        yield found


def _on_threads(fetch: Callable[[T], U], items: Iterator[T]) -> Iterator[U]:
    waiting: deque[Future[U]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for item in items:
            waiting.append(pool.submit(fetch, item))
            if len(waiting) >= AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
