"""Retrieval against the definition written as loops, and against torchmetrics."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torchmetrics.functional.retrieval import retrieval_hit_rate

from evaluate.tasks import retrieval as module
from evaluate.tasks.retrieval import distinct_texts, ranks, retrieval
from evaluate.tasks.texts import normalised
from store.errors import EvaluationError


def drawn(images=30, texts=50, *, width=6, noise=1.0, seed=0):
    """Every image has a text, some have several, and some texts are written twice, with other images."""
    rng = np.random.default_rng(seed)
    image_of_text = np.concatenate([np.arange(images), rng.integers(images, size=texts - images)])
    image = rng.normal(size=(images, width)).astype(np.float32)
    embedding = (image[image_of_text] + noise * rng.normal(size=(texts, width))).astype(np.float32)
    captions = [f"Caption {number}" for number in range(texts)]
    for copy, original in ((40, 3), (41, 3), (7, 5)):
        captions[copy] = f"  {captions[original].upper()}. "
        embedding[copy] = embedding[original]
    return {
        "image_NE": image,
        "text_embedding": embedding,
        "texts": captions,
        "image_of_text": image_of_text,
        "image_ids": [f"scan {number}" for number in range(images)],
    }


def slow_ranks(case):
    """Ranks of the best right candidate, query by query, among texts that differ."""
    keys = [text.strip(" .").lower() for text in case["texts"]]
    distinct = list(dict.fromkeys(keys))
    first = [keys.index(key) for key in distinct]
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (case["image_NE"], case["text_embedding"])]
    cosine = unit[0] @ unit[1][first].T
    right = np.zeros(cosine.shape, bool)
    for key, image in zip(keys, case["image_of_text"], strict=True):
        right[image, distinct.index(key)] = True
    found = []
    for scores, own in ((cosine, right), (cosine.T, right.T)):
        found.append([1 + int((row[~mine] >= row[mine].max()).sum()) for row, mine in zip(scores, own, strict=True)])
    return found, cosine, right


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tile", [(1024, 8192), (7, 11), (1, 1)])
def test_ranks_are_those_of_a_loop_whatever_the_tiles(seed, tile, monkeypatch):
    monkeypatch.setattr(module, "TILE", tile)
    case = drawn(seed=seed)
    (image_rank, text_rank), _, _ = slow_ranks(case)
    found = retrieval(**case)
    assert found.predictions.columns["rank"].tolist() == [*image_rank, *text_rank]
    assert found.predictions.columns["side"].tolist() == [0] * 30 + [1] * 47
    for name, values in (("i2t", image_rank), ("t2i", text_rank)):
        for k in (1, 5, 10):
            assert found.metrics[f"{name}_recall_at_{k}"] == pytest.approx(np.mean(np.array(values) <= k))
        assert found.metrics[f"{name}_median_rank"] == np.median(values)
    recalls = [value for name, value in found.metrics.items() if "_recall_at_" in name]
    assert len(recalls) == 6
    assert found.metrics["mean_recall"] == pytest.approx(np.mean(recalls))


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_agrees_with_torchmetrics(k):
    case = drawn()
    _, cosine, right = slow_ranks(case)
    for name, scores, own in (("i2t", cosine, right), ("t2i", cosine.T, right.T)):
        expected = np.mean(
            [
                float(retrieval_hit_rate(torch.from_numpy(row.copy()), torch.from_numpy(mine.copy()), top_k=k))
                for row, mine in zip(scores, own, strict=True)
            ]
        )
        assert retrieval(**case).metrics[f"{name}_recall_at_{k}"] == pytest.approx(expected)


def test_pairs_are_gathered_in_pieces(monkeypatch):
    whole = retrieval(**drawn()).predictions.columns["rank"]
    monkeypatch.setattr(module, "PIECE_PAIRS", 3)
    np.testing.assert_array_equal(retrieval(**drawn()).predictions.columns["rank"], whole)


def test_texts_that_are_the_same_are_no_wrong_answers_for_each_other():
    image = np.eye(4, dtype=np.float32)
    case = {"image_NE": image, "text_embedding": image[[0, 0, 2, 3]], "image_of_text": np.arange(4)}
    case |= {"image_ids": list("abcd")}
    apart = retrieval(**case, texts=["one", "two", "three", "four"])
    same = retrieval(**case, texts=["One!", "one", "three", "four"])
    assert apart.metrics["i2t_recall_at_1"] == 0.5  # a meets two equal texts, b is nearest to none
    assert same.metrics["t2i_recall_at_1"] == 1
    assert same.details["num_distinct_texts"] == 3
    assert same.details["num_texts"] == 4
    assert same.details["num_pairs"] == 4


def test_an_encoder_that_sees_nothing_comes_last_and_not_first():
    case = drawn()
    case |= {"image_NE": np.ones((30, 6), np.float32), "text_embedding": np.ones((50, 6), np.float32)}
    found = retrieval(**case)
    assert found.metrics["mean_recall"] == 0
    assert found.metrics["t2i_median_rank"] == 30


def test_random_embeddings_give_chance():
    rng = np.random.default_rng(5)
    image, text = (rng.normal(size=(2000, 32)).astype(np.float32) for _ in range(2))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (image, text)]
    order = np.arange(2000)
    for found in ranks(*unit, pair_image=order, pair_text=order):
        assert found.mean() == pytest.approx(1000.5, rel=0.04)
        assert (found <= 100).mean() == pytest.approx(0.05, abs=0.015)


def test_fewer_candidates_than_k_are_said(caplog):
    case = drawn()
    case = {
        "image_NE": case["image_NE"][:4],
        "text_embedding": case["text_embedding"][:4],
        "texts": case["texts"][:4],
        "image_of_text": np.arange(4),
        "image_ids": case["image_ids"][:4],
    }
    with caplog.at_level(logging.WARNING):
        found = retrieval(**case)
    assert found.details["effective_k"] == {"i2t": {"1": 1, "5": 4, "10": 4}, "t2i": {"1": 1, "5": 4, "10": 4}}
    assert found.metrics["i2t_recall_at_10"] == 1
    assert "only 4 candidates" in caplog.text


def test_a_text_goes_with_its_image_in_a_resample():
    found = retrieval(**drawn()).predictions
    assert found.clusters[:3] == ["scan 0", "scan 1", "scan 2"]
    assert found.clusters[30 + 6] == "scan 6"
    assert found.ids[30] == "text 0"
    patients = [f"patient {number // 2}" for number in range(30)]
    assert retrieval(**drawn(), clusters=patients).predictions.clusters[30 + 6] == "patient 3"


@pytest.mark.parametrize(
    ("text", "key"), [("  A CT-scan, of\tthe Chest. ", "a ct scan of the chest"), ("T₂ ﬁlm", "t2 film"), ("…", "")]
)
def test_texts_are_compared_without_case_punctuation_and_spaces(text, key):
    assert normalised(text) == key


def test_distinct_texts_are_numbered_by_their_first_place():
    numbers, first = distinct_texts(["b", "a", "B.", "c", "A"])
    assert numbers.tolist() == [0, 1, 0, 2, 1]
    assert first.tolist() == [0, 1, 3]


def spoilt(**changes):
    return {**drawn(), **changes}


def with_nan():
    embedding = drawn()["text_embedding"].copy()
    embedding[9] = np.nan
    return embedding


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (spoilt(text_embedding=with_nan()), "text embeddings: 1 of 47 rows have values that are not finite"),
        (spoilt(image_NE=np.zeros((30, 6))), "image embeddings: 30 of 30 rows are zero"),
        (spoilt(image_of_text=np.full(50, 30)), "50 texts name an image that is not there"),
        (spoilt(image_of_text=np.zeros(50, int)), "29 images have no text, the first is 'scan 1'"),
        (spoilt(texts=["."] * 50), "50 texts are empty"),
        (spoilt(texts=["A scan", "a scan."] * 25), "two images and two different texts; there are 30 and 1"),
        (spoilt(texts=["a"]), "1 texts, 50 embeddings of texts"),
        (spoilt(image_ids=["a"]), "30 image embeddings, but 1 names"),
        (spoilt(text_embedding=np.ones((50, 5))), r"images are embedded as \(6,\), texts as \(5,\)"),
        (spoilt(image_NE=np.zeros((0, 6))), "there are 0 and 50"),
    ],
)
def test_bad_input_is_refused(case, message):
    with pytest.raises(EvaluationError, match=message):
        retrieval(**case)


def test_the_rank_of_chance_is_the_mean_rank_of_drawn_embeddings():
    case = drawn()
    told = retrieval(**case).details["expected_rank_of_chance"]
    ranked = {0: [], 1: []}
    for seed in range(400):
        rng = np.random.default_rng(seed)
        image, text = rng.normal(size=case["image_NE"].shape), rng.normal(size=case["text_embedding"].shape)
        found = retrieval(**{**case, "image_NE": image, "text_embedding": text}).predictions.columns
        for side, values in ranked.items():
            values.append(found["rank"][found["side"] == side].mean())
    assert told == {
        "i2t": pytest.approx(np.mean(ranked[0]), rel=0.03),
        "t2i": pytest.approx(np.mean(ranked[1]), rel=0.03),
    }


def recall_over_orders(cosine, right, k, orders):
    """The share of queries with a right answer among the first k, over random orders of candidates that are equal."""
    hits = []
    for generator in map(np.random.default_rng, range(orders)):
        mixed = generator.permutation(cosine.shape[1])
        first = np.argsort(-np.round(cosine[:, mixed], 5), axis=1, kind="stable")[:, :k]
        hits.append(np.take_along_axis(right[:, mixed], first, axis=1).any(axis=1).mean())
    return np.mean(hits)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_strict_recall_takes_the_same_caption_of_another_image_for_a_wrong_answer(k):
    case = drawn(images=20, texts=60, noise=0.3)
    case["texts"] = [f"caption {number % 12}" for number in range(60)]
    case["text_embedding"] = case["text_embedding"][np.arange(60) % 12]
    found = retrieval(**case)
    once = sorted({(image, place % 12) for place, image in enumerate(case["image_of_text"])})
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (case["image_NE"], case["text_embedding"])]
    cosine = unit[0] @ unit[1][[number for _, number in once]].T
    right = np.array([own for own, _ in once])[None] == np.arange(20)[:, None]
    for name, scores, own in (("i2t", cosine, right), ("t2i", cosine.T, right.T)):
        expected = recall_over_orders(scores, own, k, orders=400)
        assert found.details["strict"][f"{name}_recall_at_{k}"] == pytest.approx(expected, abs=0.01)
    assert found.details["strict"]["mean_recall"] < found.metrics["mean_recall"] - 0.1


def test_strict_recall_is_the_default_one_where_no_caption_is_repeated():
    case = drawn()
    case["texts"] = [f"caption {number}" for number in range(50)]
    case["text_embedding"] = np.random.default_rng(3).normal(size=(50, 6)).astype(np.float32)
    found = retrieval(**case)
    for name, value in found.details["strict"].items():
        assert value == pytest.approx(found.metrics[name], abs=1e-12)
