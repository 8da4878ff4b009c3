"""Memory of batches that goes round."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from train.data.buffers import Buffers


class Copy:
    """The mark of a copy to a card, as far as `Buffers` looks at it."""

    def __init__(self):
        self.ended = threading.Event()

    def synchronize(self):
        assert self.ended.wait(timeout=60)


def test_a_buffer_is_handed_out_again_when_the_copy_out_of_it_has_ended():
    buffers, copy = Buffers(1, (2,), shared=False, pinned=False), Copy()
    number = buffers.take()
    buffers.give(number, copied=copy)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(buffers.take)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)
        copy.ended.set()
        assert waiting.result(timeout=60) == number
    buffers.give(number)
    assert buffers.take() == number


@pytest.mark.parametrize("shared", [False, True])
def test_each_buffer_has_memory_of_its_own(shared):
    buffers = Buffers(3, (2, 4), shared=shared, pinned=False)
    for number in range(3):
        buffers[number][:] = number
    assert [buffers[number].tolist() for number in range(3)] == [[[number] * 4] * 2 for number in range(3)]
    assert len(buffers.memories) == (3 if shared else 0)
