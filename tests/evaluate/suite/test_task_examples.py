"""Examples of a search say of each text what the ranks say of it."""

from __future__ import annotations

import numpy as np

from evaluate.datasets.loaded import Split
from evaluate.suite.task_examples import retrieval_examples
from evaluate.tasks.retrieval import retrieval
from tests.evaluate.dataset_files import image_bytes

CAPTIONS = ["A T2 scan.", "a t2 scan", "A T1 scan", "A chest film", "An apple"]


class Drawn:
    """An image file in memory."""

    def __init__(self, number):
        self.place = str(number)

    def read(self):
        return image_bytes(int(self.place))


def test_a_text_that_differs_in_case_and_punctuation_is_right_and_shown_once():
    count = len(CAPTIONS)
    split = Split(
        name="test",
        ids=[f"i{number}" for number in range(count)],
        captions=CAPTIONS,
        images=[Drawn(number) for number in range(count)],
        image_digests=[f"{number}" for number in range(count)],
    )
    image = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
    text = image + 0.1
    text[1] = text[0]
    found = retrieval_examples(image, text, split, list(range(count)))
    ranks = retrieval(
        image, text, texts=CAPTIONS, image_of_text=np.arange(count), image_ids=split.ids
    ).predictions.columns["rank"]
    assert len(found) == count
    for example in found:
        assert len({one.text.lower().strip(".") for one in example.candidates}) == 4
        right = [one.correct for one in example.candidates]
        assert right.index(True) + 1 == ranks[split.ids.index(example.id)]
