"""The pure parts of the experiment on the claim: who sees what, which models there are, and what is compared."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from scipy import stats

from evaluate.config import EvaluatePipeline
from evaluate.datasets.registry import read_registry
from evaluate.metrics.bootstrap import Interval, Resampling
from evaluate.metrics.predictions import Predictions
from evaluate.results.files import write_result
from evaluate.results.record import DatasetFacts, ModelFacts, ResultRecord
from store.config.pipeline_file import read_pipeline
from tests.benchmarks.claim.analysis import Compared, Results, adjusted, best_of_each, best_teacher, compared, paired
from tests.benchmarks.claim.arms import ABLATIONS, ARMS, DRAWS, OF_STORE, PRIMARY, draw_of, seeds_of
from tests.benchmarks.claim.corpora import DATASETS, OTHERS, REAL_PARTS, RealPair, share_out
from tests.benchmarks.claim.datasets import write_entries
from tests.benchmarks.claim.pipelines import DRAWN, ROOT, make_pipelines, pipeline_of, teacher_names
from tests.benchmarks.claim.status import status
from tests.benchmarks.claim.tables import comparisons, endpoints


def pairs(number=4000):
    """Return pairs of two datasets and three parts, with digests of their numbers."""
    kinds = [("medical_mnist_64", "HeadCT"), ("medical_mnist_64", "Hand"), ("breastmnist", "0")]
    return [
        RealPair(
            key=str(place),
            image=b"",
            digest=f"{place:064x}",
            caption="",
            label=kinds[place % 3][1],
            dataset=kinds[place % 3][0],
        )
        for place in range(number)
    ]


@pytest.mark.parametrize("draw", DRAWS)
def test_no_image_is_seen_by_two(draw):
    shares = share_out(pairs(), draw)
    seen = [pair.digest for share in shares.values() for pair in share]
    assert len(seen) == len(set(seen))
    assert set(shares) == {*REAL_PARTS, "distill"}


def test_an_image_belongs_to_its_part_or_by_a_share_to_another():
    own = [part == pair.part for part, share in share_out(pairs(), 1).items() for pair in share if part != "distill"]
    assert np.mean(own) == pytest.approx(1 - OTHERS, abs=0.03)


def test_draws_divide_the_images_anew():
    first, second = (
        {pair.digest: part for part, share in share_out(pairs(), draw).items() for pair in share} for draw in DRAWS
    )
    private = [{digest for digest, part in of.items() if part != "distill"} for of in (first, second)]
    # Of two independent halves, a third of the union is in both.
    assert len(private[0] & private[1]) / len(private[0] | private[1]) == pytest.approx(1 / 3, abs=0.03)


@pytest.fixture(scope="module")
def made():
    return make_pipelines()


def test_the_arms_are_those_of_the_plan():
    plan = (ROOT / "docs" / "claim-plan.md").read_text()
    named = {name.replace(" with 1,020 steps", "_long") for name in re.findall(r"`(\w+)`", plan)} | {"task_only_long"}
    assert {arm.name for arm in (*PRIMARY, *ABLATIONS, *OF_STORE)} <= named
    assert [len(arm.students) for arm in PRIMARY] == [10, 10, 10]
    assert {tuple(arm.seeds) for arm in (*ABLATIONS, *OF_STORE)} == {(1, 2, 3)}
    assert ARMS["task_only_long"].steps == 1020


def test_every_student_is_in_a_pipeline_of_its_draw(made):
    for arm in ARMS.values():
        for seed in arm.seeds:
            section = made[pipeline_of(arm, seed)]["train"]["students"][arm.student(seed)]
            assert (section["recipe"], section["optimization"]["seed"]) == (arm.recipe, seed)
    assert sum(len(one["train"]["students"]) for one in made.values()) == 63
    assert {seed for draw in DRAWS for seed in seeds_of(draw) if draw_of(seed) == draw} == set(range(1, 11))


def test_an_ablation_differs_from_its_base_in_what_it_names_alone(made):
    for arm in (*ABLATIONS, *OF_STORE):
        own, base = (made[pipeline_of(one, 1)] for one in (arm, ARMS[arm.base]))
        sections = (made[pipeline_of(one, 1)]["train"]["students"][one.student(1)] for one in (arm, ARMS[arm.base]))
        ours, theirs = (dict(section, out="") for section in sections)
        students = {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)}
        pipelines = {key for key in ("corpora", "teachers", "store", "select", "pixels") if own[key] != base[key]}
        expected = {
            "task_only_long": ({"recipe", "optimization"}, set()),
            "ungated": (set(), {"select"}),
            "quantile": (set(), {"select"}),
            "image_teacher": (set(), {"corpora", "teachers", "store", "select"}),
            "angular": ({"improved"}, set()),
            "float32": (set(), {"store"}),
            "int8": (set(), {"store"}),
            "pixels": ({"images"}, set()),
            "window_16": ({"window_blocks"}, set()),
            "window_256": ({"window_blocks"}, set()),
            "one_place": ({"window_blocks"}, {"store"}),
        }
        assert (students, pipelines) == expected[arm.name]


def test_the_pipelines_are_read(made, tmp_path):
    path = tmp_path / "pipelines.yaml"
    path.write_text(json.dumps(made))
    for name in made:
        loaded = read_pipeline(path, name, EvaluatePipeline)
        assert loaded.select == "all" or {*loaded.select} <= {*loaded.teachers}
    first, second = (made[f"draw{draw}"]["train"]["pretrain"] for draw in DRAWS)
    seeds = [run["optimization"]["seed"] for run in (*first.values(), *second.values())]
    assert len(seeds) == len(set(seeds)) == 2 * len((*REAL_PARTS, *DRAWN))


def test_validation_entries_leave_the_test_split_out(tmp_path):
    write_entries(tmp_path, test="test")
    shipped, test, validation, one = (
        read_registry([tmp_path / kind] if kind else []) for kind in ("", "test", "validation", "one_prompt_stop")
    )
    for name in DATASETS:
        assert test[name] == shipped[name]
        assert validation[name].split.model_dump() | {"values": {"val": "test"}} == validation[name].split.model_dump()
        assert "test" in validation[name].split.ignore
        assert validation[name].prompts() == shipped[name].prompts()
        assert {len(prompts) for prompts in one[name].prompts()} == {1}
        assert all(prompt.endswith(".") for prompts in one[name].prompts() for prompt in prompts)


def test_without_spread_of_items_the_interval_is_students_t():
    values = np.array([0.02, 0.05, -0.01, 0.03, 0.04, 0.0, 0.06, 0.02, 0.01, 0.03])
    flat = np.zeros(10_000)
    found = paired([(value, flat + value) for value in values], [(0.0, flat)] * 10)
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.value == pytest.approx(values.mean())
    assert [found.low, found.high] == pytest.approx([reference.low, reference.high], abs=0.002)


def write(folder, model, dataset, correct, *, items=200):
    """Write a record of a model that is right about a share of the items of two classes."""
    target = np.arange(items) % 2
    wrong = np.arange(items) >= correct * items
    predictions = Predictions(
        ids=[str(item) for item in range(items)],
        columns={"target": target, "score": np.eye(2)[np.where(wrong, 1 - target, target)]},
    )
    facts = {"title": dataset, "modality": "xray", "provenance": "ours", "licence": "", "digest": "d"}
    record = ResultRecord(
        model=ModelFacts(name=model, address=model, role="other", digest="m"),
        task="zero_shot",
        dataset=DatasetFacts(name=dataset, split_digest=dataset, **facts),
        prompts_digest=None,
        logit_scale=None,
        versions={},
        seconds=0,
        excluded={},
        overlap=None,
        n=items,
        primary="accuracy",
        metrics={"accuracy": Interval(value=correct, low=0, high=1, resamples=10, failed=0)},
        bootstrap=Resampling(mode="plain", seed=1, resamples=10),
        seeds={},
        details={},
    )
    write_result(folder, record, predictions)


@pytest.fixture
def finished(tmp_path):
    """Results on all three datasets: distilled students 0.9, task-only 0.8, and of each draw a best teacher of 0.85."""
    for kind in ("test", "validation"):
        for place, dataset in enumerate(DATASETS):
            for seed in ARMS["paper"].seeds:
                for arm, value in (("task_only", 0.8), ("paper", 0.9), ("improved", 0.9)):
                    write(tmp_path / kind, ARMS[arm].student(seed), dataset, value + seed / 200)
            for draw in DRAWS:
                for teacher, name in enumerate(teacher_names(draw)):
                    write(
                        tmp_path / kind, name, dataset, 0.85 if teacher == 1 else 0.87 if teacher == place + 2 else 0.5
                    )
    return [Results(tmp_path / kind, resamples=500) for kind in ("test", "validation")]


def test_rivals_are_chosen_on_validation(finished):
    _, validation = finished
    assert best_teacher(validation, 2) == "tiny_xray_2"
    assert best_of_each(validation, 1) == ["tiny_mri_1", "tiny_breast_ultrasound_1", "tiny_child_xray_1"]


def test_a_comparison_goes_seed_by_seed(finished):
    test, _ = finished
    found = compared(test, ARMS["paper"], ARMS["task_only"].student, "")
    assert found.values == pytest.approx([0.1] * 10)
    assert found.by_draw == pytest.approx([0.1, 0.1])
    assert found.found.low > 0.05
    assert adjusted([found])[0].verdict == "yes"


def test_a_yes_needs_both_draws(finished):
    found = compared(finished[0], ARMS["paper"], ARMS["task_only"].student, "").found
    one_draw = Compared(name="", found=found, by_draw=[0.3, -0.1], values=[], p_holm=0.01)
    assert one_draw.verdict == "not decided"


def test_the_tables_name_every_arm_and_comparison(finished, capsys):
    endpoints(*finished)
    comparisons(*finished)
    said = capsys.readouterr().out
    for name in ("task_only", "paper", "improved", "tiny_ct_1", "tiny_dermatology_2"):
        assert f"`{name}`" in said
    assert said.count("| yes |") == 6
    assert "| `paper` - best teacher of each dataset |" in said


def test_the_status_counts_what_is_there(tmp_path):
    assert "primary 0 of 30 trained, 0 tested; ablations 0 of 15 trained" in status(tmp_path)
