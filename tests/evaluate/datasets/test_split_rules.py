"""Splits by digest, by column and by file."""

from __future__ import annotations

import hashlib

import pytest

from evaluate.datasets.split_rules import DigestSplit, FieldSplit, FileSplit, NothingTrained, share_of, split_of
from store.errors import EvaluationError

KEYS = {"id": "a", "patient": "p", "image": "0" * 64}


def by_digest(rule, name):
    return split_of(rule, value=None, file="f", keys={**KEYS, "id": name})


def test_the_share_of_a_text_is_the_first_part_of_its_sha256():
    expected = int(hashlib.sha256(b"salt\ntext").hexdigest()[:16], 16) / 16**16
    assert share_of("text", salt="salt") == expected


def test_a_digest_gives_the_shares_that_are_asked_for():
    rule = DigestSplit(rule="digest", by="id", salt="s", train=0.6, val=0.1)
    found = [by_digest(rule, str(number)) for number in range(20_000)]
    shares = [found.count(name) / len(found) for name in ("train", "val", "test")]
    # Three standard deviations of a share of 0.6 among 20,000 are 0.0104.
    assert shares == pytest.approx([0.6, 0.1, 0.3], abs=0.0104)


def test_a_digest_does_not_depend_on_the_other_items():
    rule = DigestSplit(rule="digest", by="id", salt="s")
    names = [str(number) for number in range(50)]
    assert [by_digest(rule, name) for name in names] == [by_digest(rule, name) for name in reversed(names)][::-1]
    salted = rule.model_copy(update={"salt": "t"})
    assert [by_digest(rule, name) for name in names] != [by_digest(salted, name) for name in names]


def test_a_split_by_patient_keeps_a_patient_together():
    rule = DigestSplit(rule="digest", by="patient", salt="s")
    found = {split_of(rule, value=None, file="f", keys={**KEYS, "id": str(number)}) for number in range(50)}
    assert len(found) == 1
    with pytest.raises(EvaluationError, match="the item 'a' has no patient"):
        split_of(rule, value=None, file="f", keys={**KEYS, "patient": None})


@pytest.mark.parametrize(
    ("value", "expected"), [("Training", "train"), ("dev", "val"), ("held out", "test"), ("x", None)]
)
def test_a_column_says_the_split(value, expected):
    rule = FieldSplit(rule="field", values={"held out": "test"}, ignore=["x"])
    assert split_of(rule, value=value, file="f", keys=KEYS) == expected


def test_an_unknown_value_of_the_split_column_is_refused():
    with pytest.raises(EvaluationError, match=r"the split column says 'tset'; expected one of train, training"):
        split_of(FieldSplit(rule="field"), value="tset", file="f", keys=KEYS)


def test_the_file_says_the_split():
    rule = FileSplit(rule="files", train=["d/train*"], test=["d/test*"])
    assert split_of(rule, value=None, file="d/test-0.parquet", keys=KEYS) == "test"
    with pytest.raises(EvaluationError, match="d/dev: no pattern of split: matches"):
        split_of(rule, value=None, file="d/dev", keys=KEYS)


def test_validation_is_taken_from_training_alone():
    rule = FileSplit(rule="files", train=["train"], test=["test"], val_share=0.25)
    names = [str(number) for number in range(4000)]
    train = [split_of(rule, value=None, file="train", keys={**KEYS, "id": name}) for name in names]
    test = {split_of(rule, value=None, file="test", keys={**KEYS, "id": name}) for name in names}
    assert train.count("val") / len(train) == pytest.approx(0.25, abs=0.0206)
    assert set(train) == {"train", "val"}
    assert test == {"test"}


def test_everything_may_be_for_testing():
    assert split_of(NothingTrained(rule="all_test"), value=None, file="f", keys=KEYS) == "test"
