"""Small images: those of the corpus that can be read, and one reason for the others, after few tries."""

from __future__ import annotations

import base64
import io
import shutil

import pytest
from PIL import Image

from store.read.reader import FeatureStore
from store.report import pictures
from store.report.pictures import read_pictures


@pytest.fixture
def store(units):
    return FeatureStore(units.path)


def pairs_of(store):
    return store.pairs.read(0, store.info.rows, ["row", "uri", "member"]).to_pylist()


def test_pairs_without_an_image_have_none_and_others_have_theirs(store):
    pairs = pairs_of(store)
    for row in (0, 1, 2, 5):
        pairs[row] |= {"uri": None, "member": None}
    found = read_pictures(store, pairs)
    assert set(found.by_row) == {3, 4, 6, 7, 8, 9}
    assert found.missing == 4
    assert found.why
    image = Image.open(io.BytesIO(base64.b64decode(found.by_row[7])))
    assert image.size == (15, 8)


def test_a_store_whose_pairs_have_no_image_at_all_has_no_small_images(store):
    pairs = [{**pair, "uri": None, "member": None} for pair in pairs_of(store)]
    found = read_pictures(store, pairs)
    assert (found.by_row, found.missing) == ({}, 10)
    assert found.why
    assert read_pictures(store, []).missing == 0


def test_a_corpus_that_is_gone_is_asked_only_a_few_times(store, corpus, monkeypatch):
    asked = []
    fetch = store.images.fetch
    monkeypatch.setattr(store.images, "fetch", lambda *a, **k: (asked.append(a), fetch(*a, **k))[1])
    shutil.rmtree(corpus.files[0].removesuffix("/*.tar"))
    found = read_pictures(store, pairs_of(store))
    assert (found.by_row, found.missing) == ({}, 10)
    assert "not where the store says" in found.why
    assert len(asked) <= pictures.TRIES + 1


def test_small_images_stop_before_the_page_is_too_large(store, monkeypatch):
    whole = read_pictures(store, pairs_of(store))
    letters = sum(len(whole.by_row[row]) for row in range(4))
    monkeypatch.setattr(pictures, "MOST_LETTERS", letters)
    found = read_pictures(store, pairs_of(store))
    assert found.by_row == {row: whole.by_row[row] for row in range(4)}
    assert (found.missing, found.why) == (6, "the page would become too large")
