"""Batches against a plain reference that draws, reads and projects row by row."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from store.image_source import ImageSource
from train.images import CorpusImages, ImageLoader, View
from train.order import BatchOrder, draw_teacher
from train.projection import Projection
from train.spans import TargetReader
from train.stream import Stream

SEED = 11


@pytest.fixture
def store(make_store):
    return make_store()


@pytest.fixture
def projection(store):
    generator = torch.Generator().manual_seed(3)
    widths = {teacher: store.spec(teacher).embed_dim for teacher in store.teachers}
    return Projection(
        weights={teacher: torch.randn(6, width, generator=generator) for teacher, width in widths.items()},
        biases={teacher: torch.randn(6, generator=generator) for teacher in widths},
        spec_hashes={teacher: store.spec(teacher).hash for teacher in widths},
        settings={},
    )


def reader_of(store, projection):
    return TargetReader(store, projection, teachers=store.teachers, available_NT=store.available("all"), seed=SEED)


def first_batches(store, targets, count, *, span_steps=3, root=None, batch_size=8):
    rows = np.flatnonzero(store.available("all").any(axis=1))
    order = BatchOrder(rows, seed=SEED, batch_size=batch_size, block_rows=8, window_blocks=2)
    table = store.pairs.read(0, store.info.rows, ["uri", "member", "caption"])
    view = View(size_px=32, crop_scale=0.5, seed=SEED, max_pixels=10**6)
    source = ImageSource(root) if root else store.images
    loader = ImageLoader(CorpusImages(source, table), view=view, threads=2)
    stream = Stream(order, loader, table["caption"].to_pylist(), targets=targets, span_steps=span_steps)
    return list(islice(stream, count)), order


def assert_same(first, second):
    assert first.step == second.step
    np.testing.assert_array_equal(first.rows_B, second.rows_B)
    assert torch.equal(first.pixels_BHWC, second.pixels_BHWC)
    assert first.captions == second.captions


def test_targets_are_the_drawn_teachers_features_projected_row_by_row(store, projection):
    available_NT = store.available("all")
    batches, order = first_batches(store, reader_of(store, projection), 12)
    drawn = set()
    for step, batch in enumerate(batches):
        np.testing.assert_array_equal(batch.rows_B, order[step])
        assert batch.targets.mask_B.all()
        for place, row in enumerate(batch.rows_B):
            (number,) = draw_teacher(available_NT[[row]], np.array([row]), seed=SEED, epoch=order.epoch(step))
            teacher = store.teachers[number]
            drawn.add((teacher, order.epoch(step)))
            for side, found in (("image", batch.targets.image_BE), ("text", batch.targets.text_BE)):
                feature = torch.from_numpy(store.read(slice(row, row + 1), teacher=teacher, side=side))
                torch.testing.assert_close(found[place], projection.apply(teacher, feature)[0], rtol=1e-5, atol=1e-6)
    assert drawn == {(teacher, epoch) for teacher in ("alpha", "beta") for epoch in (0, 1)}


def test_a_row_without_teacher_is_masked_and_its_targets_are_zero(store, projection):
    rows = np.array([0, 1, 9, 10])
    targets = reader_of(store, projection).read(rows, np.zeros(4, np.int64))
    assert targets.mask_B.tolist() == [False, True, False, True]
    assert not targets.image_BE[[0, 2]].any()
    assert not targets.text_BE[[0, 2]].any()
    assert targets.image_BE[[1, 3]].any(dim=1).all()


def test_a_row_draws_the_same_teacher_alone_and_among_others(store, projection):
    reader = reader_of(store, projection)
    rows, epochs = np.arange(64), np.repeat([4, 7], 32)
    together = reader.read(rows, epochs)
    for row in (5, 31, 32, 63):
        alone = reader.read(rows[row : row + 1], epochs[row : row + 1])
        torch.testing.assert_close(alone.image_BE[0], together.image_BE[row], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("span_steps", [1, 2, 7, 30])
def test_batches_do_not_depend_on_how_many_steps_are_read_together(store, projection, span_steps):
    expected, _ = first_batches(store, reader_of(store, projection), 10, span_steps=3)
    found, _ = first_batches(store, reader_of(store, projection), 10, span_steps=span_steps)
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)
        torch.testing.assert_close(ours.targets.image_BE, theirs.targets.image_BE, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.targets.text_BE, theirs.targets.text_BE, rtol=1e-5, atol=1e-6)


def test_a_stream_without_teachers_shows_the_same_batches(store, projection):
    with_teachers, _ = first_batches(store, reader_of(store, projection), 10)
    without, _ = first_batches(store, None, 10)
    for ours, theirs in zip(without, with_teachers, strict=True):
        assert_same(ours, theirs)
        assert ours.targets is None


def test_a_damaged_image_takes_its_caption_and_targets_with_it(store, projection, tmp_path):
    table = store.pairs.read(0, store.info.rows, ["uri", "member"]).to_pylist()
    root = tmp_path / "copy"
    root.mkdir()
    for uri in {pair["uri"] for pair in table}:
        (root / uri).write_bytes(store.images._root.read(uri))
    expected, order = first_batches(store, reader_of(store, projection), 1)
    damaged = int(order[0][3])
    with (root / table[damaged]["uri"]).open("r+b") as file:
        file.seek(table[damaged]["member"]["offset"])
        file.write(b"\0" * table[damaged]["member"]["nbytes"])
    (batch,), _ = first_batches(store, reader_of(store, projection), 1, root=root)
    keep = [0, 1, 2, 4, 5, 6, 7]
    np.testing.assert_array_equal(batch.rows_B, order[0][keep])
    assert batch.captions == [expected[0].captions[place] for place in keep]
    assert torch.equal(batch.pixels_BHWC, expected[0].pixels_BHWC[keep])
    assert torch.equal(batch.targets.image_BE, expected[0].targets.image_BE[keep])
    assert torch.equal(batch.targets.text_BE, expected[0].targets.text_BE[keep])
    assert batch.targets.mask_B.tolist() == [True] * 7
