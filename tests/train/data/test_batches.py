"""Batches: the order's rows with their images, captions and targets, however they are read."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from store.corpus.image_source import ImageSource
from tests.train.vit import tokenizer
from train.data.batch_order import BatchOrder
from train.data.batches import BATCHES, Stream
from train.data.image_loader import CorpusImages, ImageLoader, View
from train.data.target_reader import TargetReader

SEED = 11


@pytest.fixture
def store(make_store):
    return make_store()


def reader_of(store):
    return TargetReader(store, teachers=store.teachers, available_NT=store.available("all"), seed=SEED)


def stream_of(store, targets, *, span_steps=3, root=None, batch_size=8):
    rows = np.flatnonzero(store.available("all").any(axis=1))
    order = BatchOrder(rows, seed=SEED, batch_size=batch_size, block_rows=8, window_blocks=2)
    table = store.pairs.read(0, store.info.rows, ["uri", "member", "caption", "image_sha256"])
    view = View(size_px=32, crop_scale=0.5, seed=SEED, max_pixels=10**6)
    source = CorpusImages(ImageSource(root) if root else store.images, table)
    loader = ImageLoader(source, view=view, batch_rows=batch_size, threads=2, batches=BATCHES)
    captions = table["caption"].to_pylist()
    return Stream(order, loader, captions, tokenizer=tokenizer(), targets=targets, span_steps=span_steps)


def first_batches(store, targets, count, **changes):
    stream = stream_of(store, targets, **changes)
    # A copy: the memory of a batch is used again.
    found = [replace(batch, pixels_BHWC=batch.pixels_BHWC.clone()) for batch in islice(stream, count)]
    return found, stream._order


def assert_same_targets(first, second):
    assert list(first.teachers) == list(second.teachers)
    for ours, theirs in zip(first.teachers.values(), second.teachers.values(), strict=True):
        assert torch.equal(ours.places_K, theirs.places_K)
        assert torch.equal(ours.image_KD, theirs.image_KD)
        assert torch.equal(ours.text_KD, theirs.text_KD)


def assert_same(first, second):
    assert first.step == second.step
    np.testing.assert_array_equal(first.rows_B, second.rows_B)
    assert torch.equal(first.pixels_BHWC, second.pixels_BHWC)
    assert torch.equal(first.tokens.ids_BL, second.tokens.ids_BL)
    assert torch.equal(first.tokens.lengths_B, second.tokens.lengths_B)


@pytest.mark.parametrize("span_steps", [1, 2, 7, 30])
def test_batches_do_not_depend_on_how_many_steps_are_read_together(store, span_steps):
    expected, _ = first_batches(store, reader_of(store), 10, span_steps=3)
    found, _ = first_batches(store, reader_of(store), 10, span_steps=span_steps)
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)
        assert_same_targets(ours.targets, theirs.targets)


def test_a_stream_without_teachers_shows_the_same_batches(store):
    with_teachers, _ = first_batches(store, reader_of(store), 10)
    without, _ = first_batches(store, None, 10)
    for ours, theirs in zip(without, with_teachers, strict=True):
        assert_same(ours, theirs)
        assert ours.targets is None


def test_a_damaged_image_takes_its_caption_and_targets_with_it(store, tmp_path):
    table = store.pairs.read(0, store.info.rows, ["uri", "member"]).to_pylist()
    root = tmp_path / "copy"
    root.mkdir()
    for uri in {pair["uri"] for pair in table}:
        (root / uri).write_bytes(store.images._root.read(uri))
    expected, order = first_batches(store, reader_of(store), 1)
    damaged = int(order[0][3])
    with (root / table[damaged]["uri"]).open("r+b") as file:
        file.seek(table[damaged]["member"]["offset"])
        file.write(b"\0" * table[damaged]["member"]["nbytes"])
    (batch,), _ = first_batches(store, reader_of(store), 1, root=root)
    keep = [0, 1, 2, 4, 5, 6, 7]
    np.testing.assert_array_equal(batch.rows_B, order[0][keep])
    assert torch.equal(batch.tokens.ids_BL, expected[0].tokens.ids_BL[keep])
    assert torch.equal(batch.tokens.lengths_B, expected[0].tokens.lengths_B[keep])
    assert torch.equal(batch.pixels_BHWC, expected[0].pixels_BHWC[keep])
    rows = {place: number for number, place in enumerate(keep)}
    for teacher, part in expected[0].targets.teachers.items():
        found, kept = batch.targets.teachers[teacher], torch.isin(part.places_K, torch.tensor(keep))
        assert found.places_K.tolist() == [rows[place] for place in part.places_K[kept].tolist()]
        assert torch.equal(found.image_KD, part.image_KD[kept])
        assert torch.equal(found.text_KD, part.text_KD[kept])
    assert batch.targets.rows == 7


def test_a_batch_stays_as_it_is_while_the_next_ones_are_loaded(store):
    expected, _ = first_batches(store, None, 6)
    with contextlib.closing(stream_of(store, None).batches(0)) as batches:
        for batch, same in zip(batches, expected, strict=False):
            time.sleep(0.1)  # the next ones are there by now
            assert torch.equal(batch.pixels_BHWC, same.pixels_BHWC)


def test_a_stream_that_is_closed_gives_all_its_memory_back_and_may_begin_anew(store):
    stream = stream_of(store, reader_of(store))
    for _ in range(3):
        batches = stream.batches(0)
        first = next(batches).pixels_BHWC.clone()
        batches.close()
        with contextlib.ExitStack() as begun:
            for _ in range(BATCHES):
                begun.enter_context(stream._loader.begin(stream._order[0], epoch=0))
    expected, _ = first_batches(store, None, 1)
    assert torch.equal(first, expected[0].pixels_BHWC)
