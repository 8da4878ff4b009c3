"""Reads are made one by one or on threads, as a clock says that only the reads move."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from store.io import fetching

QUICK_S, DELAYED_S = 3e-5, 0.03


@pytest.fixture
def storage(monkeypatch):
    """A function that reads number K in the time that it is told for K, and where it was called."""
    clock, here, serial = [0.0], threading.get_ident(), []

    def reading(seconds):
        def fetch(key):
            if threading.get_ident() == here:
                clock[0] += seconds(key)
                serial.append(key)
            return -key

        return fetch

    monkeypatch.setattr(fetching, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    return SimpleNamespace(reading=reading, serial=serial)


def test_quick_reads_stay_on_one_thread_whatever_single_one_is_delayed(storage):
    keys = range(5000)
    seconds = lambda key: DELAYED_S if key % 7 == 0 else QUICK_S  # noqa: E731
    assert fetching.fetch_all(storage.reading(seconds), keys) == [-key for key in keys]
    assert storage.serial == list(keys)


def test_slow_reads_go_to_threads_and_nearly_all_of_them(storage):
    keys = range(20_000)
    assert fetching.fetch_all(storage.reading(lambda _key: DELAYED_S), keys) == [-key for key in keys]
    assert len(storage.serial) <= 30


def test_reads_that_become_slow_later_go_to_threads_then(storage):
    keys = range(20_000)
    seconds = lambda key: QUICK_S if key < 1000 else DELAYED_S  # noqa: E731
    assert fetching.fetch_all(storage.reading(seconds), keys) == [-key for key in keys]
    assert storage.serial[:1003] == list(range(1003))
    assert len(storage.serial) <= 1030


def test_reads_that_become_quick_later_come_back_to_one_thread(storage):
    keys = range(50_000)
    seconds = lambda key: DELAYED_S if key < 100 else QUICK_S  # noqa: E731
    assert fetching.fetch_all(storage.reading(seconds), keys) == [-key for key in keys]
    assert len(storage.serial) >= len(keys) - fetching.FIRST_BLOCK


@pytest.mark.parametrize("delay_s", [QUICK_S, DELAYED_S])
def test_an_error_of_one_read_ends_all(storage, delay_s):
    read, asked = storage.reading(lambda _key: delay_s), []

    def fetch(key):
        asked.append(key)
        if key == 50:
            raise FileNotFoundError(key)
        return read(key)

    with pytest.raises(FileNotFoundError):
        fetching.fetch_all(fetch, range(100_000))
    assert len(asked) <= 50 + fetching.FIRST_BLOCK


def test_nothing_gives_nothing():
    assert fetching.fetch_all(int, []) == []
