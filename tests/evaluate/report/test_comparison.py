from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score
from statsmodels.stats.multitest import multipletests

from evaluate.report.comparison import Evidence, compare, enough_resamples, shared
from evaluate.results.files import read_results, write_result
from store.errors import EvaluationError
from tests.evaluate.synthetic import dataset_facts, skipped, write_all, zero_shot


def compared(folder, first="mmkd", second="biomedclip", *, resamples=400):
    return compare(read_results(folder), first, second, evidence=Evidence(folder, resamples=resamples))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("results"))


def test_differences_are_of_the_values_in_the_records(folder):
    found = compared(folder)
    assert [row.dataset for row in found.rows] == ["breasts", "chests", "lungs", "skins"]
    for row in found.rows:
        assert row.difference.value == pytest.approx(row.first.value - row.second.value)
        assert row.difference.low <= row.difference.value <= row.difference.high
    (left_out,) = found.left_out
    assert left_out.startswith("zero_shot brains: mmkd was skipped (its files are missing")


def test_a_difference_and_its_interval_are_those_of_a_loop_over_the_same_resamples(tmp_path):
    found = {}
    for model in ("mmkd", "biomedclip"):
        record, found[model] = zero_shot(model, "lungs", primary="accuracy", mode="plain")
        write_result(tmp_path, record, found[model])
    generator = np.random.default_rng(record.bootstrap.seed)
    target = found["mmkd"].columns["target"]
    loop = []
    for _ in range(300):
        items = generator.integers(0, 90, 90)
        one, other = (
            accuracy_score(target[items], found[model].columns["score"][items].argmax(axis=1))
            for model in ("mmkd", "biomedclip")
        )
        loop.append(one - other)
    (row,) = compared(tmp_path, resamples=300).rows
    assert (row.difference.low, row.difference.high) == pytest.approx(tuple(np.percentile(loop, [2.5, 97.5])))
    smaller = min(np.sum(np.array(loop) <= 1e-12), np.sum(np.array(loop) >= -1e-12))
    assert row.difference.p == pytest.approx(min(1, 2 * (1 + smaller) / 301))


def test_turning_a_comparison_round_turns_every_sign(folder):
    there, back = compared(folder), compared(folder, "biomedclip", "mmkd")
    for row, other in zip(there.rows, back.rows, strict=True):
        assert row.difference.value == -other.difference.value
        assert (row.difference.low, row.difference.high) == pytest.approx(
            (-other.difference.high, -other.difference.low)
        )
        assert row.difference.p == other.difference.p
    assert (there.count("better"), there.count("worse")) == (back.count("worse"), back.count("better"))


def test_verdicts_follow_holms_p(folder):
    found = compared(folder, "mmkd", "pmc_clip")
    adjusted = multipletests([row.difference.p for row in found.rows], method="holm")[1]
    assert [row.p_holm for row in found.rows] == pytest.approx(adjusted)
    for row in found.rows:
        assert (row.verdict == "undecided") == (row.p_holm >= 0.05)
    assert found.count("better") >= 1
    assert found.count("better") + found.count("worse") + found.count("undecided") == 4


def test_a_model_does_not_differ_from_itself(folder):
    found = compared(folder, "mmkd", "mmkd")
    assert {(row.difference.value, row.difference.p, row.verdict) for row in found.rows} == {(0.0, 1.0, "undecided")}
    assert found.signed_rank_p == {"zero_shot": None}


def test_the_mean_difference_weighs_datasets_equally(folder):
    found = compared(folder)
    mean = found.means["zero_shot"]
    assert mean.value == pytest.approx(np.mean([row.difference.value for row in found.rows]))
    widths = [row.difference.high - row.difference.low for row in found.rows]
    # Of independent datasets, variances add up: the mean's interval is about as wide as sqrt(sum of squares) / D.
    assert mean.high - mean.low == pytest.approx(np.sqrt(np.sum(np.square(widths))) / 4, rel=0.15)


def test_datasets_are_independent_in_a_mean_although_official_draws_with_one_seed(tmp_path):
    record, found = zero_shot("mmkd", "breasts", mode="official")
    for name in ("breasts", "chests"):
        write_result(tmp_path, record.model_copy(update={"dataset": dataset_facts(name)}), found)
    evidence = Evidence(tmp_path, resamples=4000)
    one, other = read_results(tmp_path)
    assert one.bootstrap.seed == other.bootstrap.seed == 42
    assert np.corrcoef(evidence.samples(one), evidence.samples(other))[0, 1] == pytest.approx(1)
    assert abs(np.corrcoef(evidence.shuffled(one), evidence.shuffled(other))[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"split": "split-2"}, "different splits"),
        ({"primary": "accuracy"}, "one has auroc, the other accuracy"),
        ({"mode": "stratified"}, "resampled differently (plain and stratified)"),
        ({"count": 60}, "different test items (90 and 60)"),
        ({"prompts_digest": "a" * 64}, "evaluated differently: without it and prompts aaaaaaaa"),
    ],
)
def test_what_cannot_be_compared_is_left_out_with_its_reason(tmp_path, change, why):
    for dataset in ("lungs", "skins"):
        write_result(tmp_path, *zero_shot("mmkd", dataset))
    write_result(tmp_path, *zero_shot("biomedclip", "lungs", **change))
    write_result(tmp_path, *zero_shot("biomedclip", "skins"))
    found = compared(tmp_path)
    assert [row.dataset for row in found.rows] == ["skins"]
    (left_out,) = found.left_out
    assert left_out.startswith("zero_shot lungs: ")
    assert why in left_out


def test_what_only_one_model_has_is_said(tmp_path):
    write_result(tmp_path, *zero_shot("mmkd", "lungs"))
    write_result(tmp_path, *zero_shot("biomedclip", "lungs"))
    write_result(tmp_path, *zero_shot("mmkd", "skins"))
    write_result(tmp_path, *zero_shot("mmkd", "chests"))
    write_result(tmp_path, skipped("biomedclip", "chests", reason="no files"))
    assert compared(tmp_path).left_out == [
        "zero_shot chests: biomedclip was skipped (no files)",
        "zero_shot skins: biomedclip was not evaluated",
    ]


def test_models_without_a_common_test_set_are_refused(tmp_path):
    write_result(tmp_path, *zero_shot("mmkd", "lungs"))
    write_result(tmp_path, *zero_shot("biomedclip", "skins"))
    with pytest.raises(EvaluationError, match="share no test set"):
        compared(tmp_path)
    with pytest.raises(EvaluationError, match="no result is of a model 'mmdk'") as caught:
        compared(tmp_path, "mmdk")
    assert caught.value.hint == "there are biomedclip, mmkd"


def test_many_tests_take_more_resamples_than_the_records_have(folder):
    results = read_results(folder)
    assert enough_resamples(results, 4) == 1000
    assert enough_resamples(results, 58) == 5000
    by_name = {
        name: {("zero_shot", r.dataset.name): r for r in results if r.model.name == name}
        for name in ("mmkd", "biomedclip")
    }
    assert shared(by_name["mmkd"], by_name["biomedclip"]) == 4


def test_changed_predictions_are_not_compared(tmp_path):
    write_all(tmp_path, models=("mmkd", "biomedclip"), datasets=("lungs",))
    path = tmp_path / "mmkd" / "zero_shot" / "lungs.json"
    content = json.loads(path.read_text())
    content["predictions_digest"] = "0" * 64
    path.write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match="not the predictions"):
        compared(tmp_path)


def test_the_same_split_with_other_labels_is_not_compared(tmp_path):
    record, found = zero_shot("mmkd", "lungs")
    relabelled = record.model_copy(update={"dataset": dataset_facts("lungs", digest="corrected")})
    write_result(tmp_path, relabelled, found)
    write_result(tmp_path, *zero_shot("mmkd", "skins"))
    for dataset in ("lungs", "skins"):
        write_result(tmp_path, *zero_shot("biomedclip", dataset))
    found = compared(tmp_path)
    assert [row.dataset for row in found.rows] == ["skins"]
    assert found.left_out == ["zero_shot lungs: evaluated differently: data correcte and data data-of-"]


def test_facts_of_a_dataset_do_not_matter_but_its_split_does(tmp_path):
    record, found = zero_shot("mmkd", "lungs")
    renamed = record.model_copy(update={"dataset": dataset_facts("lungs", title="Another title")})
    write_result(tmp_path, renamed, found)
    write_result(tmp_path, *zero_shot("biomedclip", "lungs"))
    assert len(compared(tmp_path).rows) == 1
