"""Example items: searches say what the ranks say; a sample is the same for every model."""

from __future__ import annotations

import numpy as np

from evaluate.datasets.loaded import Split
from evaluate.metrics.predictions import Predictions
from evaluate.results.examples import Candidate
from evaluate.results.task_result import TaskResult
from evaluate.suite.task_examples import SAMPLED, SEARCHED, retrieval_examples, sampled_classes
from evaluate.tasks.retrieval import retrieval
from tests.evaluate.dataset_files import image_bytes

CAPTIONS = ["A T2 scan.", "a t2 scan", "A T1 scan", "A chest film", "An apple"]

LABELS = [0, 0, 0, 1, 2]


class Drawn:
    """An image file in memory."""

    def __init__(self, number):
        self.place = str(number)

    def read(self):
        return image_bytes(int(self.place))


def split_of(ids, captions, **columns):
    return Split(
        name="test",
        ids=ids,
        captions=captions,
        images=[Drawn(number % 5) for number in range(len(ids))],
        image_digests=[f"{number}" for number in range(len(ids))],
        **columns,
    )


def searched():
    """Searches of five images, of which the first two have texts that count as one, and their ranks."""
    split = split_of([f"i{number}" for number in range(len(CAPTIONS))], CAPTIONS, targets=np.array(LABELS))
    image = np.random.default_rng(0).normal(size=(len(CAPTIONS), 8)).astype(np.float32)
    text = image + 0.1
    text[1] = text[0]
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    places = np.arange(len(CAPTIONS))
    found = retrieval_examples(image, text, split, places.tolist(), ["scan", "film", "fruit"])
    ranked = retrieval(image, text, texts=CAPTIONS, image_of_text=places, image_ids=split.ids).predictions
    return found, dict(zip(ranked.ids, ranked.columns["rank"].tolist(), strict=True))


def test_a_text_that_differs_in_case_and_punctuation_is_right_and_shown_once():
    found, rank_of = searched()
    of_images = [example for example in found if example.question is None]
    assert len(of_images) == SEARCHED == 4
    for example in of_images:
        assert len({one.text.lower().strip(".") for one in example.candidates}) == 4
        right = [one.correct for one in example.candidates]
        assert right.index(True) + 1 == rank_of[f"image {example.id}"]


def test_the_images_found_for_a_text_are_those_of_its_rank_and_have_a_picture():
    found, rank_of = searched()
    of_texts = [example for example in found if example.question is not None]
    assert sorted(example.question for example in of_texts) == sorted([CAPTIONS[0], *CAPTIONS[2:]])
    for example in of_texts:
        assert len(example.candidates) == len(CAPTIONS)
        assert all(one.thumbnail_jpeg_base64 for one in example.candidates)
        right = {one.text for one in example.candidates if one.correct}
        assert right == ({"i0", "i1"} if example.question == CAPTIONS[0] else {example.target})
        first = next(place for place, one in enumerate(example.candidates, 1) if one.correct)
        assert first == rank_of[f"text {CAPTIONS.index(example.question)}"]
        for one in (*example.candidates, Candidate(text=example.id, correct=True, label=example.label)):
            assert one.label == ("scan", "film", "fruit")[LABELS[int(one.text[1:])]]


def sample(score_NC, target_N, groups, ids):
    predictions = Predictions(ids=ids, columns={"target": target_N, "score": score_NC})
    result = TaskResult(task="zero_shot", primary="accuracy", metrics={}, predictions=predictions)
    return sampled_classes(result, split_of(ids, None, groups=groups), ["a", "b", "c"])


def test_a_sample_has_the_same_items_for_every_model_evenly_over_groups_and_says_what_each_said():
    rng, count = np.random.default_rng(1), 60
    ids, groups = [f"item {number}" for number in range(count)], [f"g{number % 5}" for number in range(count)]
    target_N, scores = rng.integers(3, size=count), [rng.random((count, 3)) for _ in range(2)]
    one, other = (sample(score_NC, target_N, groups, ids) for score_NC in scores)
    assert [example.id for example in one] == [example.id for example in other]
    assert len(one) == SAMPLED == 12
    taken = [groups[ids.index(example.id)] for example in one]
    assert {taken.count(group) for group in set(groups)} == {2, 3}
    assert {example.correct for example in one} == {True, False}
    for example in one:
        item = ids.index(example.id)
        said = "abc"[int(scores[0][item].argmax())]
        truth = "abc"[target_N[item]]
        assert (example.predicted, example.target, example.correct) == (said, truth, said == truth)
    order = rng.permutation(count)
    again = sample(scores[0][order], target_N[order], [groups[item] for item in order], [ids[item] for item in order])
    assert {example.id for example in again} == {example.id for example in one}
