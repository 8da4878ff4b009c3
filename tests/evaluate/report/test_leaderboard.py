from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from scipy import stats

from evaluate.metrics.bootstrap import Interval
from evaluate.report.boards import boards
from evaluate.report.leaderboard import as_csv, as_json, as_markdown, write_leaderboards
from evaluate.results.files import read_results
from evaluate.results.record import SeedValues
from store.errors import EvaluationError
from tests.evaluate.synthetic import dataset_facts, skipped, write_all, zero_shot


def record(model, dataset, *, value=None, **options):
    found = zero_shot(model, dataset, **options)[0]
    if value is None:
        return found
    metric = Interval(value=value, low=value - 0.01, high=value + 0.01, resamples=200, failed=0)
    return found.model_copy(update={"metrics": {**found.metrics, "auroc": metric}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def written(folder):
    return {path.suffix: path.read_text() for path in write_leaderboards(folder)}


def test_models_stand_in_order_of_their_mean_rank(folder):
    (board,) = boards(read_results(folder))
    values = np.array(
        [[board.result(row, place).value for row in range(3)] for place in range(4)]  # datasets by models
    )
    expected = stats.rankdata(-values, axis=1).mean(axis=0)
    assert [board.mean_rank(row) for row in range(3)] == pytest.approx(expected)
    assert list(expected) == sorted(expected)


def test_the_best_of_a_dataset_is_marked_and_equals_share_it():
    (board,) = boards([record("mmkd", "lungs", value=0.7), record("biomedclip", "lungs", value=0.7)])
    assert board.is_best(0, 0)
    assert board.is_best(1, 0)
    (board,) = boards([record("mmkd", "lungs", value=0.7), record("biomedclip", "lungs", value=0.8)])
    assert [model.name for model in board.models] == ["biomedclip", "mmkd"]
    assert [board.is_best(row, 0) for row in (0, 1)] == [True, False]


def test_a_model_alone_is_not_the_best():
    (board,) = boards([record("mmkd", "lungs"), skipped("biomedclip", "lungs")])
    assert not board.is_best(0, 0)
    assert "**" not in as_markdown([board])


def test_less_is_better_of_a_metric_that_says_so():
    ranks = {"i2t_median_rank": Interval(value=3.0, low=2.0, high=4.0, resamples=200, failed=0)}
    worse = {"i2t_median_rank": Interval(value=9.0, low=8.0, high=10.0, resamples=200, failed=0)}
    update = {"primary": "i2t_median_rank", "details": {}}
    results = [
        record("mmkd", "lungs").model_copy(update={**update, "metrics": worse}),
        record("biomedclip", "lungs").model_copy(update={**update, "metrics": ranks}),
    ]
    (board,) = boards(results)
    assert [model.name for model in board.models] == ["biomedclip", "mmkd"]
    assert board.is_best(0, 0)
    assert "less is better" in as_markdown([board])


@pytest.mark.parametrize(
    "change", [{"split": "split-2"}, {"count": 60}, {"primary": "accuracy"}, {"prompts_digest": "of others"}]
)
def test_numbers_that_cannot_be_compared_never_share_a_column(change):
    (board,) = boards([record("mmkd", "lungs"), record("biomedclip", "lungs", **change)])
    assert len(board.columns) == 2
    assert len({column.title for column in board.columns}) == 2
    assert board.ranking is None
    assert any("lungs: evaluated on different splits" in note for note in board.notes)


def test_results_of_two_versions_of_a_model_are_noted():
    other = record("mmkd", "skins")
    other = other.model_copy(update={"model": other.model.model_copy(update={"digest": "retrained"})})
    (board,) = boards([record("mmkd", "lungs"), other])
    assert any(note.startswith("mmkd: its results are of 2 versions") for note in board.notes)


def test_what_was_found_in_a_dataset_is_noted_beside_its_numbers():
    found = record("mmkd", "lungs")
    known = found.dataset.model_copy(update={"caveats": ("1 items of train and test show the same image",)})
    (board,) = boards([found.model_copy(update={"dataset": known}), record("mmkd", "skins")])
    assert board.notes == ["Lungs: 1 items of train and test show the same image"]
    assert "- Lungs: 1 items of train and test show the same image" in as_markdown([board])


def test_ranks_use_only_datasets_that_all_models_have():
    results = [record("mmkd", "lungs", value=0.9), record("biomedclip", "lungs", value=0.5)]
    results += [record("mmkd", "skins", value=0.1), skipped("biomedclip", "skins")]
    (board,) = boards(results)
    assert board.ranking.datasets == 1
    assert board.mean_rank(0) == 1.0
    assert any("1 of 2 datasets" in note for note in board.notes)


def test_a_model_that_was_only_skipped_stands_last_without_a_rank():
    (board,) = boards([record("biomedclip", "lungs"), record("pmc_clip", "lungs"), skipped("mmkd", "lungs")])
    assert [model.name for model in board.models][-1] == "mmkd"
    assert board.mean_rank(2) is None
    assert board.mean_rank(0) is not None


def test_each_task_has_its_board():
    tasks = ["zero_shot", "linear_probe_16shot", "linear_probe_2shot", "linear_probe"]
    found = boards([record("mmkd", "lungs").model_copy(update={"task": task}) for task in tasks])
    assert [board.task for board in found] == tasks[3:] + tasks[2:0:-1] + tasks[:1]


def test_the_csv_holds_every_number_with_what_judges_it(folder, written):
    lines = {(line["model"], line["dataset"]): line for line in csv.DictReader(io.StringIO(written[".csv"]))}
    assert len(lines) == 3 * 5
    for result in read_results(folder):
        line = lines[result.model.name, result.dataset.name]
        if result.dataset.name == "brains":
            assert line["skipped"].startswith("its files are missing")
            assert line["value"] == line["low"] == line["n"] == ""
            continue
        metric = result.metrics["auroc"]
        assert [float(line[name]) for name in ("value", "low", "high")] == [metric.value, metric.low, metric.high]
        assert (line["n"], line["bootstrap"], line["resamples"]) == ("90", "plain", "200")
        assert line["split_digest"] == result.dataset.split_digest
        assert line["model_digest"] == result.model.digest
    assert lines["mmkd", "lungs"]["overlap_near"] == "12"


def test_the_markdown_has_a_row_per_model_and_every_column(folder, written):
    table = [line for line in written[".md"].splitlines() if line.startswith("|")]
    assert len(table) == 2 + 3
    assert {line.count("|") for line in table} == {2 + 5 + 1}
    best = [cell for line in table[2:] for cell in line.split("|") if "**" in cell]
    assert len(best) == 4
    assert "Brains: skipped: its files are missing" in written[".md"]
    assert "3 test images occur in the training corpus demo, 12 more nearly" in written[".md"]


def test_the_markdown_shows_names_as_they_are():
    result = record("mmkd", "lungs")
    facts = dataset_facts("lungs", title="a|b *c* <i>")
    text = as_markdown(boards([result.model_copy(update={"dataset": facts})]))
    assert "a\\|b \\*c\\* \\<i\\>" in text


def test_seeds_stand_beside_a_number():
    seeds = {"auroc": SeedValues.of([0.8, 0.9])}
    found = boards([record("mmkd", "lungs").model_copy(update={"seeds": seeds})])
    assert "; seeds sd 0.071 (2)" in as_markdown(found)
    (line,) = csv.DictReader(io.StringIO(as_csv(found)))
    assert line["seeds"] == "2"
    assert float(line["seed_sd"]) == pytest.approx(np.std([0.8, 0.9], ddof=1))


def test_the_json_is_json_and_says_its_format(written):
    content = json.loads(written[".json"])
    (task,) = content["tasks"]
    assert (content["format"], task["task"], len(task["results"])) == (1, "zero_shot", 15)
    assert task["ranking"]["models"] == as_json(boards([]))["tasks"] + task["ranking"]["models"]
    assert task["ranking"]["datasets"] == 4


def test_leaderboards_of_no_results_are_not_written(tmp_path):
    with pytest.raises(EvaluationError, match="holds no results"):
        write_leaderboards(tmp_path)
    assert not list(tmp_path.iterdir())
