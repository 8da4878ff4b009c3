"""Wrong arguments of the documented interface end in an error of MMKD that says what was expected."""

from __future__ import annotations

import re

import numpy as np
import pytest

from store import FeatureStore, MMKDError, TeacherSelection
from store.errors import ConfigError, LocationError, PairDecodeError, StoreError
from tests.store.make_fixture import FIXTURE

STORE = FIXTURE / "store"
SIDES = "expected 'image' or 'text', got"
ROWS = "expected a slice, whole numbers or 20 booleans, got"


@pytest.fixture(scope="module")
def store():
    return FeatureStore(STORE, corpus_root=FIXTURE / "corpus")


@pytest.mark.parametrize(
    ("rows", "teacher", "side", "message"),
    [
        ([0], "alpha", "img", f"side: {SIDES} 'img'; did you mean 'image'?"),
        ([0], "alpha", None, f"side: {SIDES} None"),
        ([0], "alph", "image", "no teacher 'alph' in this store; did you mean 'alpha'?; it has alpha, beta"),
        ([0], "../specs/alpha", "image", "no teacher '../specs/alpha' in this store"),
        ([0], "a\0", "image", r"no teacher 'a\x00' in this store"),
        ([0], None, "image", "teacher: expected a name, got nothing"),
        (np.array([3, 99]), "alpha", "image", "row 99 of a store that has 20; rows are numbered from 0 to 19"),
        ([-21], "alpha", "image", "row -21 of a store that has 20"),
        (np.array([2**63], np.uint64), "alpha", "image", "row 9223372036854775808 of a store that has 20"),
        (3, "alpha", "image", f"{ROWS} int64 of shape ()"),
        (None, "alpha", "image", f"{ROWS} object of shape ()"),
        (np.array([0.5]), "alpha", "image", f"{ROWS} float64 of shape (1,)"),
        (np.array([[0, 1]]), "alpha", "image", f"{ROWS} int64 of shape (1, 2)"),
        (["a"], "alpha", "image", f"{ROWS} <U1 of shape (1,)"),
        ([[0], [1, 2]], "alpha", "image", f"{ROWS} lists of different lengths"),
        ([True, False], "alpha", "image", f"{ROWS} 2 booleans"),
        (slice(0, 1.5), "alpha", "image", "is no slice of rows: slice indices must be integers"),
        (slice(0, 5, 0), "alpha", "image", "slice step cannot be zero"),
    ],
)
def test_read_refuses_what_it_cannot_read(store, rows, teacher, side, message):
    with pytest.raises(StoreError, match=re.escape(message)):
        store.read(rows, teacher=teacher, side=side)


@pytest.mark.parametrize(
    "rows", [slice(None, None, -1), slice(15, 3, -2), slice(3, 15, 2), slice(-4, None), slice(9, 3)]
)
def test_columns_and_features_of_any_slice_are_those_of_all_rows_sliced(store, rows):
    assert np.array_equal(store.status("alpha", rows), store.status("alpha")[rows])
    assert np.array_equal(store.similarity("alpha", rows), store.similarity("alpha")[rows])
    every_ND = store.read(slice(None), teacher="alpha", side="text")
    assert np.array_equal(store.read(rows, teacher="alpha", side="text"), every_ND[rows])
    assert np.array_equal(store.read(np.arange(20)[rows], teacher="alpha", side="text"), every_ND[rows])


def test_rows_below_zero_count_from_the_end_and_booleans_choose(store):
    every_ND = store.read(slice(None), teacher="alpha", side="text")
    assert np.array_equal(store.read([-1, -20], teacher="alpha", side="text"), every_ND[[19, 0]])
    chosen_N = np.arange(20) % 3 == 0
    assert np.array_equal(store.read(chosen_N, teacher="alpha", side="text"), every_ND[chosen_N])
    assert store.read([], teacher="alpha", side="text").shape == (0, 4)


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (lambda s: s.status("alpha", 3), StoreError, "expected a slice such as slice(0, 256), got 3"),
        (lambda s: s.similarity("gamma"), StoreError, "no teacher 'gamma'"),
        (lambda s: s.as_of({"gamma": [0]}), StoreError, "no teacher 'gamma' in this store; it has alpha, beta"),
        (lambda s: s.as_of({"alpha": ["0"]}), StoreError, "ranges: expected whole numbers by teacher"),
        (lambda s: s.as_of(["alpha"]), StoreError, "ranges: expected whole numbers by teacher"),
        (lambda s: s.available("every"), ConfigError, "select: expected 'all' or a mapping, got 'every'"),
        (lambda s: s.available(["alpha"]), ConfigError, "select: expected 'all' or a mapping, got a list"),
        (lambda s: s.available({"alpha": object()}), ConfigError, "select: expected 'all' or rules by teacher"),
        (lambda s: s.available({"alpa": {}}), ConfigError, "no such teacher; did you mean 'alpha'?"),
        (
            lambda s: s.available({"alpha": {"modalitys": ["ct"]}}),
            ConfigError,
            "select.alpha.modalitys: unknown key; did you mean 'modalities'?",
        ),
        (lambda s: s.available({"alpha": {"modalities": ["xrays"]}}), ConfigError, "'xrays'; did you mean 'xray'?"),
        (lambda s: s.available(teachers="alpha"), StoreError, "teachers: expected a list of names"),
        (lambda _: TeacherSelection(modality=["ct"]), ConfigError, "modality: unknown key; did you mean 'modalities'?"),
        (lambda _: TeacherSelection(min_similarity=3), ConfigError, "min_similarity: must be at most 1, got 3"),
        (lambda _: TeacherSelection("ct"), ConfigError, "expected conditions by name"),
        (lambda s: s.pairs.read(15, 99), StoreError, "rows 15 to 99 of a pair table that has 20"),
        (lambda s: s.pairs.read(-5, 2), StoreError, "rows -5 to 2 of a pair table that has 20"),
        (lambda s: s.pairs.read(0, 2, ["captoin"]), StoreError, "no column 'captoin'; did you mean 'caption'?"),
        (lambda s: s.pairs.read(0, 2, "caption"), StoreError, "columns: expected a list of names"),
        (lambda s: s.pairs.row_of(None), StoreError, "no pair has the key None"),
        (lambda s: s.pairs.row_of("\udc80"), StoreError, r"no pair has the key '\udc80'"),
        (lambda s: s.images.fetch("000.tar", "{"), PairDecodeError, "member: expected the pair table's column"),
        (lambda s: s.images.fetch("000.tar", {"offset": 0}), PairDecodeError, "member: expected the pair table's"),
        (lambda _: FeatureStore(3), LocationError, "expected a path or URL, got 3"),
        (lambda _: FeatureStore("a\0b"), LocationError, r"'a\x00b': no path holds a NUL"),
        (lambda _: FeatureStore(STORE, verify="alway"), StoreError, "verify: expected 'never' or 'first' or 'always'"),
        (lambda _: FeatureStore(STORE, allow="/data"), StoreError, "allow: expected a list of places, got '/data'"),
    ],
)
def test_wrong_arguments_are_refused_by_name(store, attempt, error, message):
    with pytest.raises(error, match=re.escape(message)) as caught:
        attempt(store)
    assert isinstance(caught.value, MMKDError)


def test_a_selection_may_be_plain_dictionaries(store):
    rule = TeacherSelection(modalities=["ct"], min_similarity=0.5)
    plain = {"alpha": {"modalities": ["ct"], "min_similarity": 0.5}}
    assert store.available({"alpha": rule}).any()
    assert np.array_equal(store.available(plain), store.available({"alpha": rule}))
