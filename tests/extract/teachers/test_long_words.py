"""One unbroken word of thousands of letters: every family reads it as its authors' tokenizer does, in bounded time."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from extract.teacher_files.specs import teacher_spec
from extract.teachers.loading import load_teacher
from tests.extract import teacher_cases as cases
from tests.extract.teacher_cases import CASES

WORDS = ["ab" * 100, "pneumothorax" * 30, "chest x-ray " + "q" * 300 + " of the lung", "e" * 600]


@pytest.mark.parametrize("name", CASES)
def test_words_of_hundreds_of_letters_are_read_as_the_authors_read_them_and_longer_ones_too(tmp_path, name):
    case = cases.written(name, tmp_path)
    teacher = load_teacher(teacher_spec(name, case.entry), case.entry)
    with torch.inference_mode():
        theirs_BD = functional.normalize(case.text(WORDS), dim=-1)
    ours_BD = torch.from_numpy(teacher.encode_text(WORDS))
    assert (ours_BD * theirs_BD).sum(dim=1).min() > 0.99999
    some, more = "pneumothorax" * 500, "pneumothorax" * 10_000
    tokens = teacher.tokenize([some, more])
    assert (tokens.ids_BL[0] == tokens.ids_BL[1]).all()
    assert tokens.lengths_B[0] == tokens.lengths_B[1] <= tokens.ids_BL.shape[1]
    assert tokens.truncated_B[0] == tokens.truncated_B[1]
