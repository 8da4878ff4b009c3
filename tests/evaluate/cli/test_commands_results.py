from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from evaluate.cli import commands_results
from evaluate.results.files import write_result
from store.errors import EvaluationError
from tests.evaluate.synthetic import write_all, zero_shot


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def app():
    return commands_results.app


def run(app, *arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def test_two_models_are_compared_on_every_test_set(app, folder):
    text = run(app, "compare", "mmkd", "biomedclip", "--results", folder).output
    for dataset in ("lungs", "breasts", "chests", "skins"):
        assert dataset in text
    assert "after Holm's correction over 4 tests" in text
    assert "zero_shot: mean difference +" in text
    assert "left out: zero_shot brains: mmkd was skipped" in text


def test_a_comparison_as_json_has_what_the_table_has(app, folder):
    content = json.loads(run(app, "compare", "mmkd", "biomedclip", "--results", folder, "--json").stdout)
    assert (content["first"], content["second"], len(content["rows"])) == ("mmkd", "biomedclip", 4)
    for row in content["rows"]:
        assert row["difference"]["value"] == pytest.approx(row["first"]["value"] - row["second"]["value"])
        assert {"low", "high", "p", "failed"} <= set(row["difference"])
        assert row["p_holm"] >= row["difference"]["p"]


def test_all_models_are_ranked_with_their_critical_difference(app, folder):
    text = run(app, "compare", "--results", folder).output
    assert "mean ranks over 4 test sets" in text
    assert "critical difference 1.66 (Nemenyi, 5 %)" in text  # 2.343 sqrt(3 * 4 / (6 * 4))
    content = json.loads(run(app, "compare", "--results", folder, "--json").stdout)
    assert set(content["zero_shot"]["models"]) == {"mmkd", "biomedclip", "pmc_clip"}


def test_one_model_or_three_are_not_compared(app, folder):
    for models in (["mmkd"], ["mmkd", "biomedclip", "pmc_clip"]):
        done = run(app, "compare", *models, "--results", folder)
        assert done.exit_code == 2
        assert "name two models" in done.output


def test_a_task_without_results_is_refused(app, folder, tmp_path):
    with pytest.raises(EvaluationError, match="no result of a task 'vqa'"):
        run(app, "compare", "--results", folder, "--task", "vqa")
    write_result(tmp_path, *zero_shot("mmkd", "lungs"))
    with pytest.raises(EvaluationError, match="no test set has results of two models"):
        run(app, "compare", "--results", tmp_path)


def test_leaderboards_and_report_are_written_where_they_are_said_to_be(app, folder, tmp_path):
    paths = run(app, "leaderboard", "--results", folder).stdout.split()
    assert paths == [str(folder / f"leaderboard.{suffix}") for suffix in ("csv", "md", "json")]
    page = tmp_path / "page.html"
    assert run(app, "report", "--results", folder, "--out", page, "--title", "A <b> title").stdout.strip() == str(page)
    assert "<h1>A &lt;b&gt; title</h1>" in page.read_text()
    # What was written does not count as a result.
    assert len(json.loads((folder / "leaderboard.json").read_text())["tasks"][0]["results"]) == 15
