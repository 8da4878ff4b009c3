from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from evaluate.cli import commands_results
from evaluate.results.files import write_result
from store.errors import EvaluationError
from tests.evaluate.synthetic import model_facts, write_all, zero_shot


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


def test_a_comparison_says_over_which_family_it_corrects(app, folder, tmp_path):
    whole = run(app, "compare", "mmkd", "biomedclip", "--results", folder).output
    assert "over 4 tests (all test sets that both share; no family was declared)" in whole
    file = tmp_path / "family.txt"
    file.write_text("# planned in May\nzero_shot/lungs\n\nzero_shot/brains\n")
    options = ("compare", "mmkd", "biomedclip", "--results", folder, "--family", file, "--on", "zero_shot/skins")
    assert "over 3 tests (declared beforehand)" in run(app, *options).output
    content = json.loads(run(app, *options, "--json").stdout)
    assert [row["dataset"] for row in content["rows"]] == ["skins", "lungs"]
    assert max(row["p_holm"] / row["difference"]["p"] for row in content["rows"]) == pytest.approx(3)
    with pytest.raises(EvaluationError, match="'lungs' is no test set"):
        run(app, "compare", "mmkd", "biomedclip", "--results", folder, "--on", "lungs")
    file.write_text("\n")
    with pytest.raises(EvaluationError, match="names no test set"):
        run(app, "compare", "mmkd", "biomedclip", "--results", folder, "--family", file)
    assert "for two models" in run(app, "compare", "--results", folder, "--on", "zero_shot/skins").output


def test_a_claim_is_a_sentence_with_its_footing_and_a_table(app, folder):
    text = run(app, "claim", "mmkd", "--results", folder, "--on", "zero_shot/lungs", "--on", "zero_shot/skins").output
    assert "mmkd: better than every teacher on 2 of 2 sets (macro +0." in text
    assert "one training seed; 2 teachers (biomedclip, pmc_clip); Holm over 2 test sets (declared beforehand)" in text
    assert text.count("│ better") == 2


def test_a_claim_as_json_takes_models_of_a_pattern_as_seeds(app, folder):
    options = ("claim", "*mk*", "p*", "--results", folder, "--teacher", "biomedclip", "--margin", "0.5", "--json")
    content = json.loads(run(app, *options, "--task", "zero_shot").stdout)
    assert (content["seeds"], content["teachers"]) == (["mmkd", "pmc_clip"], ["biomedclip"])
    assert content["sentence"].startswith("*mk*: not shown: better than every teacher on 0 of 4 sets")
    assert "not worse by 0.5 or more on" in content["sentence"]
    assert {row["dataset"]: list(row["by_teacher"]) for row in content["sets"]} == {
        name: ["biomedclip"] for name in ("breasts", "chests", "lungs", "skins")
    }


def test_a_claim_against_the_teacher_that_validation_chose(app, folder, tmp_path):
    for model in ("biomedclip", "pmc_clip"):
        write_result(tmp_path, *zero_shot(model, "lungs", split="validation"))
    options = ("claim", "mmkd", "--results", folder, "--on", "zero_shot/lungs", "--validation", tmp_path)
    assert "better than the teacher that validation chose on 1 of 1 set (macro" in run(app, *options).output
    assert json.loads(run(app, *options, "--json").stdout)["validation"] == {"zero_shot/lungs": "biomedclip"}


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


def test_a_family_file_of_any_editor_names_each_test_set_once(app, folder, tmp_path):
    file = tmp_path / "family.txt"
    file.write_bytes(b"\xef\xbb\xbf# planned\r\nzero_shot/lungs\r\n  # in May\r\nzero_shot/lungs \r\n")
    options = ("compare", "mmkd", "biomedclip", "--results", folder, "--family", file, "--on", "zero_shot/skins")
    assert "over 2 tests (declared beforehand)" in run(app, *options).output
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EvaluationError, match="is no text"):
        run(app, *options)


def test_a_models_whole_name_is_no_pattern(app, tmp_path):
    for model, skill in (("s[1]", 0.9), ("s1", 0.5), ("s*", 0.7), ("biomedclip", 0.5)):
        record, found = zero_shot("mmkd", "lungs", skill=skill, seed=1)
        role = "teacher" if model == "biomedclip" else "student"
        write_result(tmp_path, record.model_copy(update={"model": model_facts(model, role=role)}), found)
    for text, expected in (("s[1]", ["s[1]"]), ("s*", ["s*"]), ("s?", ["s*", "s1"])):
        assert json.loads(run(app, "claim", text, "--results", tmp_path, "--json").stdout)["seeds"] == expected
