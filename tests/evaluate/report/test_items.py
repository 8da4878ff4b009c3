"""The page shows the same items and groups for every model, as the records have them."""

from __future__ import annotations

import re

import pytest
import torch

from evaluate.config import EvaluatePipeline
from evaluate.datasets.pipeline_sets import pipeline_sets
from evaluate.metrics.registry import IN_GROUP
from evaluate.models.pipeline_models import addresses_of
from evaluate.report.contents import gather
from evaluate.report.drawing.seconds import Stage, seconds_plot
from evaluate.report.items import best_teacher, same_items
from evaluate.report.page import render
from evaluate.results.files import read_predictions, read_results, write_result
from evaluate.results.record import ORACLE
from evaluate.suite.plan import Settings, plan
from evaluate.suite.suite import Suite
from extract.corpora.phantom.catalog import FINDINGS
from extract.corpora.phantom.corpus import PhantomSettings, write_corpus
from tests.evaluate.synthetic import model_facts, zero_shot
from tests.evaluate.tiny_model import write_model

NASTY = "<img src=x onerror=alert(1)>"
GROUPS = tuple(FINDINGS)
STAGES = {"corpus": Stage(seconds=7.4, parts={}), "teachers": Stage(seconds=61.0, parts={"tiny <b>": 58.25, "b": 1.0})}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of two teachers in both tasks of a set with captions and groups."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("items")
    write_corpus(folder / "corpus", PhantomSettings(rows=72, seed=9, split="test"))
    for seed, name in enumerate(("one", "other")):
        write_model(folder / name, [finding.name for group in GROUPS for finding in FINDINGS[group]], seed=seed)
    dataset = {
        "corpus": "test",
        "label": "finding",
        "group": "modality",
        "classes": {group: [finding.name for finding in FINDINGS[group]] for group in GROUPS},
        "templates": ["{label} seen on {group}"],
    }
    pipeline = EvaluatePipeline.model_validate(
        {
            "corpora": {"test": {"files": [str(folder / "corpus/*.tar")]}},
            "store": {"path": str(folder / "store"), "corpus": "test"},
            "teachers": {name: {"folder": str(folder / name), "embed_dim": 32} for name in ("one", "other")},
            "train": {"students": {}},
            "evaluate": {"out": str(folder), "zero_shot": {"test": dataset}, "retrieval": {"test": {"corpus": "test"}}},
        }
    )
    evaluations = plan(addresses_of(None, pipeline), pipeline_sets(pipeline).values(), tasks=(), data_root=folder)
    Suite(
        Settings(results=folder / "results", data_root=folder, teachers=pipeline.teachers, threads=1, resamples=40)
    ).run_all(evaluations)
    return folder / "results"


def records(results, task="zero_shot"):
    return [one for one in read_results(results) if one.task == task and one.model.name != ORACLE]


def test_a_set_with_captions_is_for_retrieval_too(results):
    assert {(one.model.name, one.task) for one in read_results(results)} == {
        *((name, task) for name in ("one", "other") for task in ("zero_shot", "retrieval")),
        (ORACLE, "zero_shot"),
    }


def test_the_answers_that_are_shown_are_those_of_the_predictions(results):
    ((title, task, items),) = same_items(records(results), "sample")
    assert (title, task, len(items)) == ("test", "zero_shot", 12)
    for item in items:
        answers = {model.name: example for model, example in [*item.first, *item.rest]}
        assert set(answers) == {"one", "other"}
        assert item.example.thumbnail_jpeg_base64
        for record in records(results):
            found = read_predictions(results, record)
            row = found.ids.index(item.example.id)
            names = record.details["classes"]
            said = names[int(found.columns["score"][row].argmax())]
            truth = names[int(found.columns["target"][row])]
            example = answers[record.model.name]
            assert (example.predicted, example.target, example.correct) == (said, truth, said == truth)


def test_students_and_the_best_teacher_come_first_and_the_others_after_them(tmp_path):
    sample = {"id": "i", "kind": "sample", "target": "a", "predicted": "b"}
    for name, skill in (("biomedclip", 0.1), ("pmc_clip", 3.0), ("mmkd", 0.5)):
        write_result(tmp_path, *zero_shot(name, "lungs", skill=skill, details={"examples": [sample]}))
    found = read_results(tmp_path)
    assert best_teacher(found).model.name == "pmc_clip"
    ((_, _, (item,)),) = same_items(found, "sample")
    assert [model.name for model, _ in item.first] == ["mmkd", "pmc_clip"]
    assert [model.name for model, _ in item.rest] == ["biomedclip"]


def test_the_page_shows_each_group_with_its_interval_and_where_the_time_went(results):
    html = render(gather(results), title="t", note=f"quick {NASTY}", stages=STAGES)
    for record in records(results):
        for metric in ("group_accuracy", *(f"{IN_GROUP}{group}" for group in GROUPS)):
            found = record.metrics[metric]
            assert f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]" in html
    for part in ("quick &lt;img", "61 s", "tiny &lt;b&gt; 58.2, b 1.0", "The same searches, by every model"):
        assert part in html
    assert NASTY not in html
    assert len(re.findall(r"<dd><code>[a-z]+-\d+</code></dd>", html)) >= 12 + 8


def test_captions_ids_labels_and_names_are_shown_and_not_run(tmp_path):
    candidate = {"text": NASTY, "correct": False, "label": NASTY}
    search = {"id": NASTY, "kind": "retrieval", "question": NASTY, "target": NASTY, "predicted": NASTY, "label": "x"}
    sample = {"id": NASTY, "kind": "sample", "target": NASTY, "predicted": NASTY}
    details = {"examples": [sample, search | {"candidates": [candidate, candidate | {"label": "x"}]}]}
    record, found = zero_shot("mmkd", "lungs", details=details)
    model = model_facts("mmkd").model_copy(update={"name": NASTY})
    write_result(tmp_path, record.model_copy(update={"model": model}), found)
    html = render(gather(tmp_path), title="t")
    assert "<img src=x" not in html
    assert "≈ same class" in html
    assert "✗ &lt;img src=x" in html


def test_few_parts_of_a_stage_are_named_and_the_rest_are_summed_up():
    parts = {name: seconds for seconds, name in enumerate("abcdef", 1)}
    assert "f 6.0, e 5.0, d 4.0, c 3.0, 2 more 3.0" in seconds_plot({"s": Stage(seconds=9, parts=parts)})
