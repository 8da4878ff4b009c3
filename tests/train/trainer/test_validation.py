"""Recall of held-out pairs against another implementation, and which pairs are held out."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from store.errors import CorpusError
from train.config import ValidationSection
from train.trainer.validation import evenly, held_out, recalls, require_pairs


def normal(rows, seed):
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed))


def test_recalls_are_top_k_accuracies_of_the_cosines(monkeypatch):
    monkeypatch.setattr("train.trainer.validation.CHUNK_ROWS", 17)
    text_VE = normal(60, 1)
    image_VE = text_VE + normal(60, 2)
    found = recalls(image_VE, text_VE, images=np.arange(60), texts=np.arange(60))
    cosines = torch.nn.functional.cosine_similarity(image_VE[:, None], text_VE[None], dim=-1).numpy()
    assert 0.1 < found["image_to_text_recall@1"] < 0.9
    for name, scores in (("image_to_text", cosines), ("text_to_image", cosines.T)):
        for k in (1, 5, 10):
            expected = top_k_accuracy_score(np.arange(60), scores, k=k, labels=np.arange(60))
            assert found[f"{name}_recall@{k}"] == pytest.approx(expected)


def test_a_model_that_embeds_everything_alike_finds_nothing():
    found = recalls(torch.ones(20, 6), torch.ones(20, 6), images=np.arange(20), texts=np.arange(20))
    assert set(found.values()) == {0.0}


def test_pairs_of_one_image_or_one_caption_are_no_wrong_answers_to_each_other():
    image_VE = torch.eye(6)[[0, 1, 2, 3]]
    text_VE = image_VE.clone()
    text_VE[1] = text_VE[0]
    image_VE[3] = image_VE[2]
    found = recalls(image_VE, text_VE, images=np.array([0, 1, 2, 2]), texts=np.array([0, 0, 1, 2]))
    # Image 0 meets its caption twice, which is no mistake; image 1's own caption is another image's.
    assert found["image_to_text_recall@1"] == pytest.approx(2 / 4)
    assert found["text_to_image_recall@1"] == pytest.approx(2 / 4)


def digests(count):
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


def test_a_share_of_the_images_is_held_out_and_more_rows_change_nothing_for_the_old_ones():
    few, many = held_out(digests(500), share=0.2), held_out([*digests(2000), None], share=0.2)
    np.testing.assert_array_equal(many[:500], few)
    assert many[:2000].mean() == pytest.approx(0.2, abs=0.03)
    assert not many[-1]
    same = held_out([digests(500)[np.flatnonzero(few)[0]]] * 3, share=0.2)
    assert same.all()
    assert (held_out(digests(2000), share=0.1) <= many[:2000]).all()


def test_rows_are_thinned_out_evenly():
    assert evenly(np.arange(10) * 2, 5).tolist() == [0, 4, 8, 12, 16]
    assert evenly(np.arange(3), 5).tolist() == [0, 1, 2]


def test_nothing_to_validate_on_is_an_error_that_says_what_to_set():
    with pytest.raises(CorpusError, match=r"tiny: 1 pairs to validate on \(split val\)") as caught:
        require_pairs("tiny", np.arange(1), where="split val")
    assert "holdout" in caught.value.hint


@pytest.mark.parametrize("choice", [{}, {"split": "val", "holdout": 0.1}])
def test_a_validation_section_names_one_kind_of_pairs(choice):
    with pytest.raises(ValueError, match="either split or holdout"):
        ValidationSection(**choice)


def test_pairs_that_are_trained_on_are_none_to_validate_on():
    with pytest.raises(ValueError, match="pairs that are trained on"):
        ValidationSection(split="train")
