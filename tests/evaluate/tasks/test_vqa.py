"""Questions answered by a head over frozen embeddings, where the right answer is known by construction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evaluate.tasks.fitting.early_stopping import train_until_no_better
from evaluate.tasks.questions import Questions, fused
from evaluate.tasks.vqa import Head, answer_questions
from store.errors import EvaluationError, TrainingDivergedError

WIDTH = 8
QUICK = Head(hidden=32, epochs=40, seeds=(0, 1), patience=40, dropout=0.0, batch=32)
IMAGES = np.random.default_rng(50).normal(size=(4, WIDTH))
QUESTIONS = np.random.default_rng(51).normal(size=(2, WIDTH))


def drawn(name, images, *, seed=0):
    """Four kinds of images; one question asks which organ it is, the other whether it is of the first two kinds."""
    rng = np.random.default_rng([seed, *name.encode()])
    kinds = rng.integers(4, size=images)
    asked = rng.integers(2, size=(images, 3))
    parts = {"ids": [], "image": [], "question": [], "answers": [], "images": []}
    for image, kind in enumerate(kinds):
        embedding = IMAGES[kind] + 0.2 * rng.normal(size=WIDTH)
        for place, question in enumerate(asked[image]):
            parts["ids"].append(f"{name} {image} {place}")
            parts["image"].append(embedding)
            parts["question"].append(QUESTIONS[question])
            organ = ("Liver.", "left lung", "Brain", "the heart")[kind]
            parts["answers"].append(organ if question == 0 else ("Yes", "yes ", "NO", "no")[kind])
            parts["images"].append(f"{name} {image}")
    parts["image"], parts["question"] = (np.array(parts[side], np.float32) for side in ("image", "question"))
    return Questions(**parts)


def changed(split, **changes):
    names = ("ids", "image", "question", "answers", "images", "closed")
    return Questions(**{name: getattr(split, name) for name in names} | changes)


def test_a_head_learns_to_answer_and_is_counted_by_kind():
    train, val, test = drawn("train", 60), drawn("val", 20), drawn("test", 40)
    found = answer_questions(train, test, val=val, head=QUICK)
    assert found.metrics["vqa_overall"] > 0.95
    assert found.details["vocabulary"] == ["brain", "left lung", "liver", "no", "the heart", "yes"]
    columns, vocabulary = found.predictions.columns, found.details["vocabulary"]
    right = {"overall": [], "open": [], "closed": []}
    for number, answer in zip(columns["answer.1"], test.answers, strict=True):
        is_right = vocabulary[number] == answer.strip(" .").lower()
        right["overall"].append(is_right)
        right["closed" if answer.strip().lower() in ("yes", "no") else "open"].append(is_right)
    for name, values in right.items():
        assert found.seeds[f"vqa_{name}"][1] == pytest.approx(np.mean(values))
        assert found.details["num_questions"][name] == len(values)
    assert found.predictions.clusters == test.images
    assert found.predictions.strata == "closed"


def test_a_head_needs_both_the_image_and_the_question():
    train, test = drawn("train", 60), drawn("test", 40)
    blind = [changed(split, image=np.ones_like(split.image)) for split in (train, test)]
    assert answer_questions(*blind, head=QUICK).metrics["vqa_overall"] < 0.6
    deaf = [changed(split, question=np.ones_like(split.question)) for split in (train, test)]
    assert answer_questions(*deaf, head=QUICK).metrics["vqa_overall"] < 0.75


def test_a_permutation_of_training_answers_gives_chance():
    train, test = drawn("train", 60), drawn("test", 40)
    order = np.random.default_rng(1).permutation(len(train.answers))
    found = answer_questions(changed(train, answers=[train.answers[row] for row in order]), test, head=QUICK)
    assert found.metrics["vqa_overall"] < 0.45


def test_answers_that_training_never_saw_are_wrong_and_counted():
    train, test = drawn("train", 40), drawn("test", 20)
    test = changed(test, answers=["spleen", *test.answers[1:]])
    found = answer_questions(train, test, head=QUICK)
    assert not found.predictions.columns["correct"][0]
    assert found.predictions.columns["target"][0] == -1
    assert found.details["answers_seen_in_training"]["overall"] == pytest.approx(59 / 60)
    assert found.details["answers_seen_in_training"]["closed"] == 1
    assert (found.predictions.columns["answer"] >= 0).all()


def test_the_most_frequent_training_answer_is_given_beside_it():
    train, test = drawn("train", 30), drawn("test", 30)
    found = answer_questions(train, test, head=QUICK).details["always_the_most_frequent_answer"]
    closed = [answer.strip().lower() for answer in train.answers if answer.strip().lower() in ("yes", "no")]
    often = max(("no", "yes"), key=closed.count)
    asked = [answer.strip().lower() for answer in test.answers if answer.strip().lower() in ("yes", "no")]
    assert found["closed"] == pytest.approx(asked.count(often) / len(asked))


def test_the_same_seeds_give_the_same_answers_and_leave_torchs_generator_alone():
    train, test = drawn("train", 20), drawn("test", 20)
    head = Head(hidden=16, epochs=3, seeds=(0, 1))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = answer_questions(train, test, head=head)
    torch.testing.assert_close(torch.rand(3), expected)
    second = answer_questions(train, test, head=head)
    for name, column in first.predictions.columns.items():
        np.testing.assert_array_equal(column, second.predictions.columns[name])


def test_inputs_are_both_embeddings_their_product_and_their_difference():
    split = drawn("train", 5)
    found = fused(split, what="train")
    for row in range(len(split.ids)):
        u, v = (WIDTH**0.5 * part[row] / np.linalg.norm(part[row]) for part in (split.image, split.question))
        np.testing.assert_allclose(found[row], np.concatenate([u, v, u * v, abs(u - v)]), rtol=1e-5, atol=1e-6)


def test_closed_questions_can_be_stated():
    train, test = drawn("train", 20), drawn("test", 20)
    closed = np.arange(60) < 7
    found = answer_questions(train, changed(test, closed=closed), head=Head(hidden=8, epochs=1, seeds=(0,)))
    assert found.details["num_questions"] == {"overall": 60, "open": 53, "closed": 7}


def test_a_dataset_without_closed_questions_has_no_such_accuracy():
    train, test = drawn("train", 20), drawn("test", 20)
    found = answer_questions(train, changed(test, closed=np.zeros(60, bool)), head=Head(hidden=8, epochs=1, seeds=(0,)))
    assert set(found.metrics) == {"vqa_overall", "vqa_open"}


def test_training_keeps_the_weights_of_the_best_epoch():
    model = torch.nn.Linear(1, 1, bias=False)
    scores = iter([0.1, 0.5, 0.4, 0.3])

    def epoch(number):
        with torch.no_grad():
            model.weight.fill_(number)
        return 1.0

    stopped = train_until_no_better(model, epoch=epoch, validate=lambda: next(scores), epochs=9, patience=2)
    assert (stopped.best_epoch, stopped.epochs, stopped.best) == (2, 4, 0.5)
    assert model.weight.item() == 2
    last = train_until_no_better(model, epoch=epoch, validate=None, epochs=3, patience=1)
    assert (last.best_epoch, last.best, model.weight.item()) == (3, None, 3)
    with pytest.raises(TrainingDivergedError, match="the loss of epoch 1 is nan"):
        train_until_no_better(model, epoch=lambda _: float("nan"), validate=None, epochs=3, patience=1)


def bad_cases():
    train, test = drawn("train", 10), drawn("test", 10)
    nan = test.image.copy()
    nan[2] = np.inf
    nothing = {"ids": [], "image": test.image[:0], "question": test.question[:0], "answers": [], "images": []}
    return [
        (train, changed(test, images=train.images), "10 images are in both test and train"),
        (changed(train, answers=["yes"] * 30), test, "all training answers are 'yes'"),
        (changed(train, answers=["?"] * 30), test, "the answer to question 'train 0 0' is empty"),
        (train, changed(test, image=nan), "test image embeddings: 1 of 30 rows have values that are not finite"),
        (train, changed(test, **nothing), "the test split has no question"),
    ]


@pytest.mark.parametrize(("train", "test", "message"), bad_cases())
def test_bad_input_is_refused(train, test, message):
    with pytest.raises(EvaluationError, match=message):
        answer_questions(train, test, head=QUICK)


def test_parts_that_do_not_fit_are_refused():
    split = drawn("train", 3)
    with pytest.raises(EvaluationError, match="differ in length"):
        changed(split, answers=["yes"])
    with pytest.raises(EvaluationError, match=r"embedded as \(8,\), questions as \(2,\)"):
        changed(split, question=np.ones((9, 2)))


def test_images_in_two_splits_can_be_allowed():
    train, test = drawn("train", 10), drawn("test", 10)
    test = changed(test, images=train.images)
    head = Head(hidden=8, epochs=1, seeds=(0,), allow_shared_images=True)
    assert answer_questions(train, test, head=head).details["images_shared"] == {"test and train": 10}
