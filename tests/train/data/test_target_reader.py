"""Targets of batches, compared with the store read row by row."""

from __future__ import annotations

import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import islice

import numpy as np
import pytest
import torch

from store.read.chunks import ChunkReader
from train.data.batch_order import BatchOrder, ShareOrder
from train.data.random_bits import draw_teacher
from train.data.target_reader import Spans, TargetReader

SEED = 11


@pytest.fixture
def store(make_store):
    return make_store()


def order_of(store):
    rows = np.flatnonzero(store.available("all").any(axis=1))
    return BatchOrder(rows, seed=SEED, batch_size=8, block_rows=8, window_blocks=2)


def reader_of(store, sampling):
    available_NT = store.available("all")
    return TargetReader(store, teachers=store.teachers, available_NT=available_NT, seed=SEED, sampling=sampling)


def targets_of(store, sampling, *, count=18, span_steps=3, start=0):
    """Return the targets of some steps over several epochs."""
    spans = Spans(order_of(store), reader_of(store, sampling), span_steps=span_steps, start=start)
    return list(islice(spans, count))


def assert_row_by_row(store, targets, rows, teaches_BT):
    assert targets.rows == len(rows)
    assert list(targets.teachers) == store.teachers
    for number, (name, teacher) in enumerate(targets.teachers.items()):
        assert teacher.places_K.tolist() == np.flatnonzero(teaches_BT[:, number]).tolist()
        for side, found in (("image", teacher.image_KD), ("text", teacher.text_KD)):
            read = [
                store.read(slice(row, row + 1), teacher=name, side=side)[0] for row in rows[teacher.places_K.numpy()]
            ]
            assert found.shape == (len(read), store.spec(name).embed_dim)
            assert all(np.array_equal(ours.numpy(), theirs) for ours, theirs in zip(found, read, strict=True))


@pytest.mark.parametrize("span_steps", [1, 2, 3, 20])
def test_a_batch_has_the_features_of_the_drawn_teacher_of_each_row(store, span_steps):
    order, available_NT, drawn = order_of(store), store.available("all"), set()
    for step, targets in enumerate(targets_of(store, "uniform_one", span_steps=span_steps)):
        rows, epoch = order[step], order.epoch(step)
        teacher_B = [int(draw_teacher(available_NT[[row]], np.array([row]), seed=SEED, epoch=epoch)[0]) for row in rows]
        assert_row_by_row(store, targets, rows, np.array(teacher_B)[:, None] == np.arange(2))
        drawn |= {(teacher, epoch) for teacher in teacher_B}
    assert drawn == {(teacher, epoch) for teacher in (0, 1) for epoch in (0, 1, 2)}


@pytest.mark.parametrize("span_steps", [1, 7])
def test_a_batch_has_the_features_of_all_available_teachers_of_each_row(store, span_steps):
    order, available_NT = order_of(store), store.available("all")
    for step, targets in enumerate(targets_of(store, "all", span_steps=span_steps)):
        assert_row_by_row(store, targets, order[step], available_NT[order[step]])


@pytest.mark.parametrize("sampling", ["uniform_one", "all"])
def test_targets_go_on_at_any_step_as_if_nothing_had_been_interrupted(store, sampling):
    whole, resumed = targets_of(store, sampling), targets_of(store, sampling, count=7, start=11)
    for ours, theirs in zip(resumed, whole[11:], strict=True):
        for name in store.teachers:
            assert torch.equal(ours.teachers[name].places_K, theirs.teachers[name].places_K)
            assert torch.equal(ours.teachers[name].image_KD, theirs.teachers[name].image_KD)


def test_a_row_draws_the_same_teacher_alone_and_among_others(store):
    reader = reader_of(store, "uniform_one")
    rows, epochs = np.arange(64), np.repeat([4, 7], 32)
    together = reader.read(rows, epochs)
    for row in (5, 31, 32, 63):
        alone = reader.read(rows[row : row + 1], epochs[row : row + 1])
        for name, teacher in alone.teachers.items():
            assert len(teacher.places_K) == int((together.teachers[name].places_K == row).sum())


def test_a_row_without_a_teacher_has_no_features(store):
    targets = reader_of(store, "all").read(np.array([0, 1, 9, 10]), np.zeros(4, np.int64))
    assert {name: teacher.places_K.tolist() for name, teacher in targets.teachers.items()} == {
        "alpha": [1, 3],
        "beta": [3],
    }


def test_parts_and_kept_rows_are_those_of_the_rows_alone(store):
    rows, epochs = np.arange(20, 40), np.zeros(20, np.int64)
    reader = reader_of(store, "all")
    targets = reader.read(rows, epochs)
    keep_B = torch.tensor([place % 3 != 1 for place in range(20)])
    available_NT = store.available("all")
    assert_row_by_row(store, targets.part(4, 11), rows[4:11], available_NT[rows[4:11]])
    assert_row_by_row(store, targets.keep(keep_B), rows[keep_B.numpy()], available_NT[rows[keep_B.numpy()]])
    assert_row_by_row(store, targets.to("cpu"), rows, available_NT[rows])


@pytest.mark.parametrize("threads", [1, 4])
def test_targets_do_not_depend_on_how_many_threads_read(store, threads):
    rows, epochs = np.arange(64)[::-1].copy(), np.zeros(64, np.int64)
    settings = {"teachers": store.teachers, "available_NT": store.available("all"), "seed": SEED}
    expected = TargetReader(store, threads=2, **settings).read(rows, epochs)
    found = TargetReader(store, threads=threads, **settings).read(rows, epochs)
    for name in store.teachers:
        assert torch.equal(found.teachers[name].places_K, expected.teachers[name].places_K)
        assert torch.equal(found.teachers[name].image_KD, expected.teachers[name].image_KD)


@pytest.mark.parametrize("sampling", ["uniform_one", "all"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_the_targets_of_all_ranks_together_are_those_of_one(store, sampling, world_size):
    alone, order = targets_of(store, sampling, count=9), order_of(store)
    shares = [
        list(islice(Spans(share, reader_of(store, sampling), span_steps=3), 9))
        for share in (ShareOrder(order, rank=rank, world_size=world_size) for rank in range(world_size))
    ]
    for step, whole in enumerate(alone):
        for name in store.teachers:
            parts = [share[step].teachers[name] for share in shares]
            places = [part.places_K + rank * 8 // world_size for rank, part in enumerate(parts)]
            assert torch.equal(torch.cat(places), whole.teachers[name].places_K)
            assert torch.equal(torch.cat([part.text_KD for part in parts]), whole.teachers[name].text_KD)


class AtOnce(ThreadPoolExecutor):
    """A pool that has done its work when it is given it."""

    def submit(self, work, *args):
        future = super().submit(work, *args)
        wait([future])
        return future


@pytest.mark.parametrize("held", [1, 3])
def test_memory_of_two_spans_is_enough(store, held, monkeypatch):
    arrays, alive, read = [], [], ChunkReader.read_many

    def noted(reader, asks):
        alive.append(sum(array() is not None for array in arrays))
        found = read(reader, asks)
        arrays.append(weakref.ref(found[store.teachers[0], "image"]))
        return found

    monkeypatch.setattr(ChunkReader, "read_many", noted)
    monkeypatch.setattr("train.data.target_reader.ThreadPoolExecutor", AtOnce)
    in_use = deque(maxlen=held)
    for targets in islice(Spans(order_of(store), reader_of(store, "all"), span_steps=5, held=held), 30):
        in_use.append(targets)
    # When a span is read, only the one that is given out is in memory.
    assert alive[0] == 0
    assert set(alive[1:]) == {1}
    assert len(alive) >= 6
