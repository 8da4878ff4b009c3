"""The first look: sets as rows, models as columns; few-shot probes as curves; the table of a model card."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from evaluate.cli.program import app
from evaluate.report.clinical import decision_tables, prompt_tables, strict_tables, subgroup_tables
from evaluate.report.comparison import few_items
from evaluate.report.contents import gather
from evaluate.report.drawing.probe_curves import probe_curves, training_items
from evaluate.report.drawing.reliability import reliability
from evaluate.report.model_card import model_card
from evaluate.report.overview import models_of, overview, probe_curves_of
from evaluate.results.files import read_results, write_result
from tests.evaluate.many_results import CLASSIFIED, SHOTS, write_many
from tests.evaluate.synthetic import write_all, zero_shot

PLIP = ("plip", "zero_shot", "breasts")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_many(tmp_path_factory.mktemp("many"), models=("mmkd_clip", "plip", "quiltnet"))


@pytest.fixture(scope="module")
def contents(folder):
    return gather(folder)


def test_tasks_and_sets_are_rows_and_models_are_columns(contents):
    models = models_of(contents)
    assert [model.name for model in models] == ["mmkd_clip", "plip", "quiltnet"]
    tasks = {task.task: task for task in overview(contents, models)}
    assert list(tasks) == ["linear_probe", "retrieval", "survival_cox", "vqa", "zero_shot"]
    zero = tasks["zero_shot"]
    assert (len(zero.rows), zero.common) == (len(CLASSIFIED), len(CLASSIFIED))
    for place, model in enumerate(models):
        values = [row.cells[place].value for row in zero.rows]
        assert zero.means[place].value == pytest.approx(sum(values) / len(values))
        assert all(row.cells[place].model == model for row in zero.rows)
    for row in zero.rows:
        best = max(row.cells, key=lambda result: result.value)
        assert best.model.name in row.best
    assert tasks["vqa"].means == [None] * 3
    assert all("missing" in result.skipped for result in tasks["vqa"].rows[0].cells)


def test_probes_with_few_items_are_one_curve_each(contents):
    curves = probe_curves_of(contents)
    assert [next(iter(one.values()))[0].dataset.name for one in curves] == ["breasts", "skins"]
    for by_model in curves:
        for curve in by_model.values():
            counts = [training_items(record) for record in curve]
            assert counts == sorted(counts)
            assert len(curve) == len(SHOTS) + 1
            assert [few_items(record.task) for record in curve] == [True] * len(SHOTS) + [False]
    svg = probe_curves("p", curves[0])
    for record in curves[0]["plip"]:
        metric = record.metrics[record.primary]
        assert f"{metric}" in svg
        assert record.seeds == {} or f"seeds ± {record.seeds[record.primary].sd:.3f}" in svg
    assert svg.count('class="probe teacher"') == 2 + 1  # with the key


def test_the_headline_is_of_all_sets_but_those_of_few_items(contents):
    (first, *_) = contents.headline
    assert (first.first, first.second) == ("mmkd_clip", "plip")
    kept = [row.difference.value for row in first.rows if not few_items(row.task)]
    assert len(kept) < len(first.rows)
    assert first.macro.value == pytest.approx(sum(kept) / len(kept))
    assert first.macro.low < first.macro.value < first.macro.high


def test_a_model_cards_table_names_the_best_teacher(folder):
    results = read_results(folder)
    text = model_card(results, "mmkd_clip")
    by_key = {(one.task, one.dataset.name, one.model.name): one for one in results}
    for name, (_, _, title) in CLASSIFIED.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| Zero shot | {title} |")]
        own, *teachers = (by_key["zero_shot", name, model] for model in ("mmkd_clip", "plip", "quiltnet"))
        best = max(teachers, key=lambda one: one.value)
        assert str(own.metrics[own.primary]) in line
        assert f"{best.value:.3f} ({best.model.name.replace('_', chr(92) + '_')})" in line
    assert "shot" not in text.replace("Zero shot", "")


def test_the_card_is_printed_and_an_unknown_model_is_refused(tmp_path):
    write_all(tmp_path, datasets=("lungs",))
    done = CliRunner().invoke(app, ["card", "mmkd", "--results", str(tmp_path)])
    assert done.exit_code == 0
    assert done.output == model_card(read_results(tmp_path), "mmkd") + "\n"
    refused = CliRunner().invoke(app, ["card", "nobody", "--results", str(tmp_path)])
    assert refused.exit_code == 1
    assert "no result is of a model 'nobody'" in str(refused.exception)


def test_less_is_better_for_the_best_teacher_of_a_card(tmp_path):
    for model, skill in (("mmkd", 0.5), ("biomedclip", 0.2), ("pmc_clip", 0.9)):
        record, found = zero_shot(model, "lungs", skill=skill)
        write_result(tmp_path, record, found)
    text = model_card(read_results(tmp_path), "mmkd")
    assert "(pmc\\_clip)" in text


@pytest.mark.parametrize("command", ["report", "leaderboard", "compare"])
def test_results_of_a_pipeline_need_no_folder(tmp_path, command):
    pipeline = yaml.safe_load((ROOT / "pipelines.yaml").read_text())["demo"]
    pipeline["evaluate"]["out"] = str(tmp_path / "out")
    (tmp_path / "pipelines.yaml").write_text(yaml.safe_dump({"mine": pipeline}))
    folder = write_all(tmp_path / "out/results", datasets=("lungs", "chests"))
    done = CliRunner().invoke(app, [command, "--pipeline", "mine", "--config", str(tmp_path / "pipelines.yaml")])
    assert done.exit_code == 0, done.exception
    assert {"report": str(folder / "report.html"), "leaderboard": str(folder), "compare": "zero_shot"}[command] in (
        done.output.replace("\n", "")
    )


def test_decisions_subgroups_and_prompts_have_tables(contents):
    tables = {caption: (heads, rows) for caption, heads, rows in decision_tables(contents.records)}
    heads, rows = tables["Breast ultrasound, zero shot"]
    assert heads[1:5] == ["sensitivity", "specificity", "positive predictive value", "negative predictive value"]
    assert [row[0] for row in rows] == ["mmkd_clip", "plip", "quiltnet"]
    record = next(one for one in contents.records if (one.model.name, one.task, one.dataset.name) == PLIP)
    assert rows[1][1] == str(record.metrics["sensitivity"])
    assert "by Youden's J on validation" in rows[1][-1]
    # Of several classes there is no threshold, and no empty column for it.
    assert tables["Brain tumours, zero shot"][0] == ["model", "Brier score", "calibration error"]
    assert not [caption for caption in tables if "shots" in caption]

    ((caption, heads, rows), *others) = subgroup_tables(contents.records)
    assert (caption, len(others)) == ("Breast ultrasound, linear probe", 3)
    assert {row[1] for row in rows} == {"sex F", "sex M"}
    assert sum(int(row[2]) for row in rows) == 3 * 120
    (caption, heads, rows), *_ = prompt_tables(contents.records)
    assert caption.endswith("zero shot")
    assert rows[0][heads.index("sd of single ones")] == "0.187"
    assert rows[0][-1] == "an image of {label} 0"


def test_strict_recalls_stand_beside_the_mean(contents):
    (record, *_) = [one for one in contents.records if one.task == "retrieval"]
    assert strict_tables([record]) == []
    recalls = {f"{side}_recall_at_{k}": 0.1 * k for side in ("i2t", "t2i") for k in (1, 5, 10)}
    details = record.details | {"strict": {**recalls, "mean_recall": 0.615}}
    ((caption, heads, (row,)),) = strict_tables([record.model_copy(update={"details": details})])
    assert caption == "Captions of figures, retrieval"
    assert row[:3] == ["mmkd_clip", str(record.metrics["mean_recall"]), "0.615"]
    assert row[heads.index("strict recall@5, text to image")] == "0.500"


def test_reliability_is_drawn_with_its_numbers(contents):
    record = next(one for one in contents.records if (one.model.name, one.task, one.dataset.name) == PLIP)
    bins = record.details["reliability"]["bins"]
    svg = reliability("r", record)
    assert svg.count('class="mark shape-dot"') == len(bins) > 5
    for one in bins:
        assert f"{one['probability']:.3f} came true in {one['share']:.3f}" in svg
    without = {key: value for key, value in record.details.items() if key != "reliability"}
    assert reliability("r", record.model_copy(update={"details": without})) is None
