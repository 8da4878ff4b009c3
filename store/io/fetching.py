"""Many small reads: one by one where that is quick, on threads where each waits for a network."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

TRIED = 3
"""Reads one after the other that have to be slow before threads are used; any single one may be delayed."""

SLOW_S = 1e-3
"""Threads pay off where a read takes longer than this, in seconds. A file in the page cache takes 0.03 ms, and three
times that on threads, which hinder each other; an object storage takes 30 ms, a shared file system 1 to 10.
"""

THREADS = 16

AHEAD = 64
"""Results that `fetch_ahead` holds in memory."""

FILES_TRIED, SLOW_FILE_S = 16, 2e-3
"""The same two for whole files, which `fetch_ahead` reads: once on threads, it stays there."""

FIRST_BLOCK, LONGEST_BLOCK = 16 * THREADS, 512 * THREADS
"""Reads that are made on threads before the next few are timed again."""


def fetch_all(fetch: Callable[[K], V], keys: Iterable[K]) -> list[V]:
    """Return what a function that reads gives for each key, in order.

    A file server may be quick for what it has at hand and slow for the rest, so the choice is made again and again.

    Args:
        fetch: may be called on several threads.
    """
    todo = list(keys)
    found: list[V] = []
    latest_s: deque[float] = deque(maxlen=TRIED)
    block = FIRST_BLOCK
    with ThreadPoolExecutor(THREADS) as pool:
        while len(found) < len(todo):
            if len(latest_s) == TRIED and min(latest_s) >= SLOW_S:
                found += pool.map(fetch, todo[len(found) : len(found) + block])
                block = min(2 * block, LONGEST_BLOCK)
                latest_s.clear()
                continue
            start = time.perf_counter()
            found.append(fetch(todo[len(found)]))
            latest_s.append(time.perf_counter() - start)
            if latest_s[-1] < SLOW_S:
                block = FIRST_BLOCK
    return found


def fetch_ahead(fetch: Callable[[K], V], items: Iterable[K], *, is_near: Callable[[K], bool]) -> Iterator[V]:
    """Yield what a function that reads gives for each item, in order; a few items ahead are fetched meanwhile.

    Args:
        is_near: whether an item lies on this machine, where threads would only make a quick disk slower.
    """
    rest, latest_s = iter(items), deque[float](maxlen=FILES_TRIED)
    for item in rest:
        if not is_near(item) or (len(latest_s) == FILES_TRIED and min(latest_s) >= SLOW_FILE_S):
            yield from _on_threads(fetch, itertools.chain([item], rest))
            return
        start = time.perf_counter()
        found = fetch(item)
        latest_s.append(time.perf_counter() - start)
        yield found


def _on_threads(fetch: Callable[[K], V], items: Iterator[K]) -> Iterator[V]:
    waiting: deque[Future[V]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for item in items:
            waiting.append(pool.submit(fetch, item))
            if len(waiting) >= AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
