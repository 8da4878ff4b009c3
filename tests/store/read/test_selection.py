"""Selections against the same rules in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest

from store.errors import ConfigError
from store.format.records import Status
from store.read.categories import categorize
from store.read.reader import FeatureStore
from store.read.selection import TeacherSelection
from store.read.selection import available as apply

ROWS = 41
TEACHERS = ["alpha", "beta"]


def available(selection, *, teachers, status, similarity, modality):
    found = apply(
        selection,
        status={name: status[name] for name in teachers},
        similarity=similarity.__getitem__,
        modality=lambda: categorize(modality.tolist()),
    )
    return np.stack([*found.values()], axis=1)


@pytest.fixture
def stored():
    rng = np.random.default_rng(7)
    return {
        "teachers": TEACHERS,
        "status": {name: rng.choice([0, 1, 1, 1, 1, 2, 5, 6], ROWS).astype(np.uint8) for name in TEACHERS},
        "similarity": {name: rng.permutation(np.linspace(-0.9, 0.9, ROWS)).astype(np.float32) for name in TEACHERS},
        "modality": rng.choice(np.array(["ct", "xray", None], dtype=object), ROWS),
    }


def reference(rule, stored, teacher):
    """Return the rows that a rule lets a teacher teach, row by row."""
    ok = [row for row in range(ROWS) if stored["status"][teacher][row] == Status.OK]
    cosine = [float(value) for value in stored["similarity"][teacher]]
    allowed = set(ok)
    if rule.modalities is not None:
        allowed = {row for row in allowed if stored["modality"][row] in rule.modalities}
    if rule.min_similarity is not None:
        allowed = {row for row in allowed if cosine[row] >= rule.min_similarity}
    if rule.top_quantile is not None:
        # Those at or above the quantile: its place among the sorted is a number of steps from the lowest.
        place = math.ceil((1 - rule.top_quantile) * (len(ok) - 1) - 1e-9)
        allowed &= set(sorted(ok, key=lambda row: cosine[row])[place:])
    return [row in allowed for row in range(ROWS)]


def test_all_is_every_row_that_is_ok(stored):
    expected = [[stored["status"][name][row] == Status.OK for name in TEACHERS] for row in range(ROWS)]
    assert available("all", **stored).tolist() == expected


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"modalities": ["ct"]},
        {"modalities": ["ct", "xray"]},
        {"modalities": []},
        {"min_similarity": 0.1},
        {"min_similarity": -1.0},
        {"min_similarity": 1.0},
        {"top_quantile": 0.3},
        {"top_quantile": 1.0},
        {"top_quantile": 0.001},
        {"modalities": ["xray"], "min_similarity": -0.2, "top_quantile": 0.7},
    ],
    ids=str,
)
def test_a_rule_selects_what_plain_python_selects(stored, rule):
    rules = {"alpha": TeacherSelection(**rule), "beta": TeacherSelection(top_quantile=0.5)}
    selected = available(rules, **stored)
    assert selected.shape == (ROWS, 2)
    assert selected[:, 0].tolist() == reference(rules["alpha"], stored, "alpha")
    assert selected[:, 1].tolist() == reference(rules["beta"], stored, "beta")


def test_the_quantile_is_of_the_teachers_own_ok_rows(stored):
    status = {name: np.full(ROWS, Status.OK, np.uint8) for name in TEACHERS}
    status["alpha"][stored["similarity"]["alpha"] > 0] = Status.BAD_TEXT
    selected = available({"alpha": TeacherSelection(top_quantile=0.25)}, **{**stored, "status": status})
    # 21 ok rows have 20 steps between them; the upper quarter begins at the 15th.
    assert selected[:, 0].sum() == 6
    assert stored["similarity"]["alpha"][selected[:, 0]].max() <= 0


def test_a_teacher_that_is_not_listed_teaches_nothing(stored):
    selected = available({"beta": TeacherSelection()}, **stored)
    assert not selected[:, 0].any()
    assert selected[:, 1].any()


def test_a_teacher_without_ok_rows_stays_empty(stored):
    status = {**stored["status"], "alpha": np.full(ROWS, Status.MISSING, np.uint8)}
    selected = available({"alpha": TeacherSelection(top_quantile=0.5)}, **{**stored, "status": status})
    assert not selected.any()


def test_columns_follow_the_teachers_asked_for(stored):
    swapped = available("all", **{**stored, "teachers": ["beta", "alpha"]})
    assert np.array_equal(swapped[:, ::-1], available("all", **stored))


def test_unknown_teachers_and_modalities_are_all_named_with_those_there_are(stored):
    rules = {"gamma": TeacherSelection(), "alpha": TeacherSelection(modalities=["ct", "mri"])}
    with pytest.raises(ConfigError) as caught:
        available(rules, **stored)
    assert str(caught.value).splitlines() == [
        "select.gamma: the store has no such teacher",
        "select.alpha.modalities: no pair of the store has the modality 'mri'",
    ]
    assert caught.value.hint == "the store's teachers are alpha, beta; its modalities are ct, xray"


def test_without_modalities_in_the_store_the_hint_says_so(stored):
    unknown = {**stored, "modality": np.full(ROWS, None, dtype=object)}
    with pytest.raises(ConfigError) as caught:
        available({"alpha": TeacherSelection(modalities=["None"])}, **unknown)
    assert caught.value.hint.endswith("its modalities are unknown")


@pytest.mark.parametrize("rule", [{"min_similarity": 1.1}, {"top_quantile": 0.0}, {"top_quantile": 1.5}, {"min": 0.1}])
def test_a_rule_out_of_its_range_is_refused(rule):
    [key] = rule
    with pytest.raises(ConfigError, match=f"^{key}: "):
        TeacherSelection(**rule)


def test_a_store_applies_a_selection_to_what_is_committed(units):
    for teacher in ("alpha", "beta"):
        units.register(teacher)
    units.commit(0)
    units.commit(2, teacher="beta")
    store = FeatureStore(units.path)
    alpha, beta = [True] * 4 + [False] * 6, [False] * 8 + [True] * 2
    assert store.available().T.tolist() == [alpha, beta]
    assert store.available(teachers=["beta"]).T.tolist() == [beta]
    ct = {"alpha": TeacherSelection(modalities=["ct"])}
    assert store.available(ct).T.tolist() == [[row == 1 for row in range(10)], [False] * 10]
