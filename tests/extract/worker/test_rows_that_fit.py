"""The first batch size on a card, from the memory that a few rows take; on a CPU nothing is measured."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.specs import teacher_spec
from extract.teachers.loading import load_teacher
from extract.worker.batch_size import MARGIN, rows_that_fit, rows_within


@pytest.mark.parametrize("rows", [1, 3, 8, 200, 10_000])
def test_rows_are_those_whose_memory_fits(rows):
    fixed, each = 1 << 20, 3 << 20
    free = fixed + rows * each
    found = rows_within(free, fixed + each, fixed + 8 * each)
    assert found <= rows
    assert found > rows - 8
    assert rows_within(free + each - 1, fixed + each, fixed + 8 * each) == found


def test_it_is_one_at_least_and_bounded_by_the_margin_where_rows_cost_nothing():
    assert rows_within(0, 1 << 20, 8 << 20) == 1
    assert rows_within(-5, 1 << 20, 1 << 20) == 1
    assert rows_within(100, 10, 10) == 88  # as if a row took a byte


class Held(TorchDispatchMode):
    """Counts the bytes of tensors that are alive, as the allocator of a card does."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.known:
                storage = tensor.untyped_storage()
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(tensor, self._gone, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.now)
        return result

    def _gone(self, storage, nbytes):
        self.known.discard(storage)
        self.now -= nbytes


class SmallCard:
    """A card with so much memory, which measures what a real teacher's tensors take."""

    def __init__(self, free_bytes):
        self.free_bytes = free_bytes

    def free(self):
        return self.free_bytes

    def peak(self, call):
        with Held() as held:
            call()
        if held.most > self.free_bytes:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return held.most


@pytest.fixture
def teacher(teachers):
    return load("small", teachers)


def load(name, teachers, **entry):
    chosen = TeacherEntry(folder=str(teachers[name]), **entry)
    return load_teacher(teacher_spec(name, chosen), chosen)


@pytest.mark.parametrize("megabytes", [40, 200, 1000])
def test_what_is_found_fits_and_not_much_more_would(teacher, megabytes):
    free = megabytes << 20
    rows = rows_that_fit(teacher, device="cpu", at_most=100_000, memory=SmallCard(free))
    side = teacher.geometry.size_px
    longest = teacher.tokenize(["the " * 100] * rows)
    card = SmallCard(10**12)
    calls = {
        "images": lambda: teacher.image_features(torch.zeros((rows, side, side, 3), dtype=torch.uint8)),
        "texts": lambda: teacher.text_features(torch.from_numpy(longest.ids_BL), longest.lengths_B.tolist()),
    }
    taken = max(card.peak(call) for call in calls.values())
    assert 0.5 * MARGIN * free < taken <= free


def test_it_is_shared_bounded_and_may_be_stated(teachers, teacher):
    card = SmallCard(200 << 20)
    alone, shared = (rows_that_fit(teacher, device="cpu", at_most=10**6, sharing=n, memory=card) for n in (1, 4))
    assert 1 < shared < alone / 3
    assert rows_that_fit(teacher, device="cpu", at_most=5, memory=card) == 5
    assert rows_that_fit(teacher, device="cpu", at_most=256) == 256
    stated = load("small", teachers, batch_size=7)
    assert stated.spec == teacher.spec
    assert rows_that_fit(stated, device="cpu", at_most=256) == 7
    assert rows_that_fit(stated, device="cuda", at_most=256) == 7
    assert rows_that_fit(stated, device="cpu", at_most=4) == 4


def test_a_card_that_is_full_begins_with_one_row(teacher):
    assert rows_that_fit(teacher, device="cpu", at_most=256, memory=SmallCard(1000)) == 1
