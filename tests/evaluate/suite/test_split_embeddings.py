"""Items without embedding are counted in every split, and refused where a dataset does not allow any."""

from __future__ import annotations

import numpy as np
import pytest

from evaluate.datasets.loading import load_dataset
from evaluate.models.encoders import NOT_STORED, Embedded
from evaluate.suite.split_embeddings import Embedder
from store.errors import EvaluationError
from tests.evaluate.dataset_files import folder_dataset


class Rows:
    """Embeds every image but some, given by their place among the distinct ones."""

    def __init__(self, *, without):
        self._without = without

    def embed_images(self, images):
        rows = np.ones((len(images.digests), 4), np.float32)
        without = {place: why for place, why in self._without.items() if place < len(rows)}
        rows[list(without)] = np.nan
        return Embedded(rows=rows, without=without)


def embedder(tmp_path, without, **changes):
    entry = folder_dataset(tmp_path, **changes)
    return Embedder(Rows(without=without), load_dataset(entry, tmp_path))


def test_images_without_an_embedding_are_counted_in_every_split(tmp_path):
    found = embedder(tmp_path, {0: "the image is truncated"}, max_excluded=0.6)
    train, test = found.labelled("train"), found.labelled("test")
    assert (len(train.ids), len(test.ids)) == (1, 2)
    assert found.excluded == {"train: the image is truncated": 1, "the image is truncated": 1}


def test_more_unreadable_images_than_the_dataset_allows_are_refused(tmp_path):
    found = embedder(tmp_path, {0: "the image is truncated"}, max_excluded=0.4)
    assert len(found.labelled("test").ids) == 2
    message = r"1 of 2 of the train split cannot be used \(the image is truncated: 1\), more than max_excluded, 40.0%"
    with pytest.raises(EvaluationError, match=message):
        found.labelled("train")


def test_what_a_store_has_no_feature_of_is_counted_and_not_refused(tmp_path):
    found = embedder(tmp_path, {0: NOT_STORED, 2: NOT_STORED})
    assert found.labelled("test").features.shape == (1, 4)
    assert found.excluded == {NOT_STORED: 2}


def test_a_split_without_any_embedding_says_why(tmp_path):
    found = embedder(tmp_path, dict.fromkeys(range(3), NOT_STORED))
    with pytest.raises(EvaluationError, match="no test image has an embedding: 3 x not in the store"):
        found.labelled("test")
