"""The oracle of a dataset with groups, of models that do not exist."""

from __future__ import annotations

import numpy as np
import pytest

from evaluate.report.boards import boards
from evaluate.report.leaderboard import as_markdown
from evaluate.report.table import by_group
from evaluate.results.assemble import record_of
from evaluate.results.files import read_predictions, read_results, write_result
from evaluate.results.record import ORACLE
from evaluate.suite.oracle import write_oracle
from evaluate.tasks.inputs import LabelledFeatures
from evaluate.tasks.zero_shot import zero_shot_in_groups
from tests.evaluate.synthetic import dataset_facts, model_facts, run_facts

GROUPS = {"ct": [0, 1], "mri": [1, 2]}
ITEMS = 40


def add(folder, name, skill, *, role="teacher", request="r1", data="d1"):
    """Write the result of a model that is good at a group as its skill says."""
    rng = np.random.default_rng(sum(map(ord, name)))
    group_N = [("ct", "mri")[number % 2] for number in range(ITEMS)]
    target = np.array([GROUPS[group][number // 2 % 2] for number, group in enumerate(group_N)])
    class_CE = np.eye(3, 8)
    strength = np.array([skill[group] for group in group_N])[:, None]
    image = rng.normal(size=(ITEMS, 8)) + 4 * strength * class_CE[target]
    test = LabelledFeatures(ids=[f"i{number:02d}" for number in range(ITEMS)], features=image, target=target)
    class_KE = {group: class_CE[numbers] for group, numbers in GROUPS.items()}
    options = {"groups": GROUPS, "class_KE": class_KE, "classes": ["a", "b", "c"], "logit_scale": 10.0}
    result = zero_shot_in_groups(test, group_N=group_N, **options)
    facts = run_facts(request_digest=request, prompts_digest="p")
    model = model_facts(name, role=role)
    record = record_of(result, model=model, dataset=dataset_facts("scans", digest=data), facts=facts, resamples=50)
    write_result(folder, record, result.predictions)


def oracle(folder, name="mine"):
    (like,) = (one for one in read_results(folder) if one.model.name == name)
    return write_oracle(folder, like)


@pytest.fixture
def folder(tmp_path):
    """Two teachers, each good at one group, and a student that is good at both."""
    add(tmp_path, "first", {"ct": 0.4, "mri": 0.1})
    add(tmp_path, "second", {"ct": 0.1, "mri": 0.4})
    add(tmp_path, "mine", {"ct": 2.0, "mri": 2.0}, role="student")
    return tmp_path


def test_the_oracle_takes_the_best_teacher_of_each_group(folder):
    record = oracle(folder)
    models = by_group(read_results(folder))
    best = {group: max(models[name]["by_modality"][group] for name in ("first", "second")) for group in GROUPS}
    assert models["first"]["by_modality"] != best != models["second"]["by_modality"]
    assert models[ORACLE]["by_modality"] == best
    assert models[ORACLE]["macro_accuracy"] == pytest.approx(sum(best.values()) / 2)
    assert models[ORACLE]["role"] == "oracle"
    assert record.details["teachers"] == {"ct": "first", "mri": "second"}
    assert record.metrics["group_accuracy"].low < record.value < record.metrics["group_accuracy"].high


def test_its_predictions_are_those_of_the_chosen_teachers(folder):
    oracle(folder)
    records = {one.model.name: one for one in read_results(folder)}
    found = {name: read_predictions(folder, record).columns for name, record in records.items()}
    for item, group in enumerate(found[ORACLE]["group"]):
        chosen = records[ORACLE].details["teachers"][group]
        np.testing.assert_array_equal(found[ORACLE]["score"][item], found[chosen]["score"][item])


def test_without_a_teacher_there_is_no_oracle(tmp_path):
    add(tmp_path, "mine", {"ct": 1.0, "mri": 1.0}, role="student")
    assert oracle(tmp_path) is None
    assert [one.model.name for one in read_results(tmp_path)] == ["mine"]


def test_an_oracle_of_the_same_teachers_is_left_alone_and_a_new_teacher_changes_it(folder):
    oracle(folder)
    (path,) = folder.glob(f"{ORACLE}/*/*.json")
    before = path.stat().st_ino
    oracle(folder)
    assert path.stat().st_ino == before
    add(folder, "third", {"ct": 3.0, "mri": 3.0})
    assert oracle(folder).details["teachers"] == {"ct": "third", "mri": "third"}
    assert path.stat().st_ino != before


def test_only_teachers_that_were_asked_the_same_on_the_same_data_count(folder):
    add(folder, "third", {"ct": 3.0, "mri": 3.0}, request="r2")
    add(folder, "fourth", {"ct": 3.0, "mri": 3.0}, data="d2")
    assert oracle(folder).details["teachers"] == {"ct": "first", "mri": "second"}
    assert oracle(folder, "third").details["teachers"] == {"ct": "third", "mri": "third"}
    assert oracle(folder, "fourth").details["teachers"] == {"ct": "fourth", "mri": "fourth"}


def test_models_whose_accuracies_differ_by_rounding_alone_tie(folder):
    records = [one for one in read_results(folder) if one.model.name != "mine"]
    near = {"first": 0.1 + 0.2, "second": 0.3}
    assert near["first"] != near["second"]
    changed = []
    for record in records:
        value = record.metrics["group_accuracy"].model_copy(update={"value": near[record.model.name]})
        changed.append(record.model_copy(update={"metrics": record.metrics | {"group_accuracy": value}}))
    (board,) = boards(changed)
    assert board.ranking.mean_ranks == [1.5, 1.5]
    assert board.is_best(0, 0)
    assert board.is_best(1, 0)


def test_the_oracle_is_a_row_of_the_board_that_neither_competes_nor_is_ranked(folder):
    add(folder, "mine", {"ct": 0.1, "mri": 0.1}, role="student")
    oracle(folder)
    (board,) = boards(read_results(folder))
    rows = {model.name: row for row, model in enumerate(board.models)}
    assert ORACLE not in board.ranking.models
    assert board.mean_rank(rows[ORACLE]) is None
    assert board.result(rows[ORACLE], 0).value > max(board.result(rows[name], 0).value for name in ("first", "second"))
    best = [name for name, row in rows.items() if board.is_best(row, 0)]
    assert "first" in best
    assert ORACLE not in best
    assert "oracle (oracle, " in as_markdown([board])
