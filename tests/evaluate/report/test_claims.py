"""Better than all teachers: what is said, on which test sets, with which error."""

from __future__ import annotations

import numpy as np
import pytest

from evaluate.report.claims import ALPHA, claim
from evaluate.report.comparison import Evidence, compare
from evaluate.report.model_card import model_card
from evaluate.results.files import read_results, write_result
from store.errors import EvaluationError
from tests.evaluate.synthetic import model_facts, skipped, write_all, zero_shot

SETS = ("breasts", "chests", "lungs", "skins")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("results"))


def claimed(folder, students=("mmkd",), **options):
    return claim(read_results(folder), students, evidence=Evidence(folder, resamples=1000), **options)


def write_seeds(folder, dataset, *, skills):
    """Write a student with several seeds, and a teacher, on one test set; return the names of the students."""
    names = [f"mmkd_seed{number}" for number in range(len(skills))]
    for name, skill in zip(names, skills, strict=True):
        record, found = zero_shot(name, dataset, skill=skill, seed=7)
        write_result(folder, record.model_copy(update={"model": model_facts(name, role="student")}), found)
    write_result(folder, *zero_shot("biomedclip", dataset))
    return names


def test_a_claim_is_about_the_smallest_difference_of_all_teachers(folder):
    found = claimed(folder)
    assert [one.dataset for one in found.sets] == list(SETS)
    for one in found.sets:
        each = one.by_teacher.values()
        assert set(one.by_teacher) == {"biomedclip", "pmc_clip"}
        assert one.difference.value == min(pair.value for pair in each) == one.by_teacher[one.closest].value
        assert (one.difference.low, one.difference.high) == (min(d.low for d in each), min(d.high for d in each))
        # One-sided against two-sided p's of the same resamples; the intersection-union test takes the largest.
        assert one.difference.p == pytest.approx(max(pair.p for pair in each) / 2, abs=1e-9)
        assert one.p_margin <= one.difference.p
        assert one.better == (one.p_holm < ALPHA)
    assert found.macro.value == pytest.approx(
        min(np.mean([one.by_teacher[name].value for one in found.sets]) for name in found.teachers)
    )


def test_the_sentence_counts_sets_and_has_the_macro_interval(folder):
    found = claimed(folder)
    better = sum(one.better for one in found.sets)
    assert found.sentence.startswith(f"mmkd: better than every teacher on {better} of 4 sets (macro +0.0")
    assert f"[{found.macro.low:.3f}, {found.macro.high:.3f}]" in found.sentence
    assert "2 teachers (biomedclip, pmc_clip); Holm over 4 test sets (all test sets that they share" in found.footing


def test_a_student_that_is_worse_gets_no_claim(folder):
    found = claimed(folder, ["pmc_clip"], teachers=["mmkd", "biomedclip"])
    assert not found.shown
    assert found.sentence.startswith("pmc_clip: not shown: better than every teacher on 0 of 4 sets (macro -0.")


def test_a_model_equal_to_a_teacher_is_not_better_and_is_not_worse(folder, tmp_path):
    record, found = zero_shot("biomedclip", "lungs")
    write_result(tmp_path, record, found)
    twin = record.model_copy(update={"model": model_facts("twin", role="student")})
    write_result(tmp_path, twin, found)
    said = claimed(tmp_path, ["twin"])
    assert (said.shown, said.sets[0].not_worse, said.sets[0].p_holm) == (False, True, 1.0)


def test_a_student_that_names_its_teachers_is_compared_with_these(folder, tmp_path):
    for number, name in enumerate(("biomedclip", "pmc_clip", "mmkd")):
        record, found = zero_shot(name, "lungs", skill=0.5 + 0.1 * number)
        own = ("pmc_clip", "conch") if name == "mmkd" else ()
        model = record.model.model_copy(update={"teachers": own})
        write_result(tmp_path, record.model_copy(update={"model": model}), found)
    said = claimed(tmp_path)
    assert (said.teachers, said.others, said.absent) == (("pmc_clip",), ("biomedclip",), ("conch",))
    assert "better than every named teacher with results on" in said.sentence
    assert "1 teacher (pmc_clip), not biomedclip; without results: conch;" in said.footing
    [line] = [line for line in model_card(read_results(tmp_path), "mmkd").splitlines() if "clip" in line]
    assert "biomedclip" not in line
    assert claimed(tmp_path, teachers=["biomedclip"]).teachers == ("biomedclip",)


def test_a_declared_family_counts_what_could_not_be_tested_as_not_shown(folder):
    family = [("zero_shot", "lungs"), ("zero_shot", "brains")]
    found = claimed(folder, family=family)
    assert found.family == tuple(family)
    assert " of 2 sets" in found.sentence
    assert "declared beforehand" in found.footing
    assert found.left_out[0].startswith("zero_shot brains: mmkd was skipped")
    (lungs,) = found.sets
    assert lungs.p_holm == pytest.approx(2 * lungs.difference.p)


def test_validation_chooses_the_only_rival_and_is_never_the_test(folder, tmp_path):
    for model in ("biomedclip", "pmc_clip"):
        for dataset in SETS:
            record, found = zero_shot(model, dataset, split="validation")
            write_result(tmp_path, record, found)
    found = claimed(folder, validation=read_results(tmp_path), family=[("zero_shot", name) for name in SETS])
    best = {
        name: max(
            (one for one in read_results(tmp_path) if one.dataset.name == name), key=lambda one: one.value
        ).model.name
        for name in SETS
    }
    assert {key[1]: name for key, name in found.validation.items()} == best
    assert {one.dataset: list(one.by_teacher) for one in found.sets} == {name: [best[name]] for name in SETS}
    assert "better than the teacher that validation chose on" in found.sentence
    with pytest.raises(EvaluationError, match="are of the test items themselves"):
        claimed(folder, validation=read_results(folder), family=[("zero_shot", "lungs")])
    with pytest.raises(EvaluationError, match="zero_shot brains: the validation results lack mmkd"):
        claimed(folder, ["pmc_clip"], teachers=["mmkd"], validation=[*read_results(tmp_path), skipped("mmkd", "lungs")])


def test_several_seeds_are_one_model_whose_spread_widens_the_interval(tmp_path):
    names = write_seeds(tmp_path, "lungs", skills=(0.5, 0.7, 0.9))
    one, three = claimed(tmp_path, names[1:2]), claimed(tmp_path, names, name="mmkd")
    values = [record.value for record in read_results(tmp_path) if record.model.name in names]
    width = {len(found.seeds): found.macro.high - found.macro.low for found in (one, three)}
    assert three.sets[0].difference.value == pytest.approx(np.mean(values) - read_value(tmp_path, "biomedclip"))
    assert width[3] > 1.5 * width[1]
    assert three.sentence.startswith("mmkd: ")
    assert "3 training seeds" in three.footing


def read_value(folder, model):
    return next(record.value for record in read_results(folder) if record.model.name == model)


def test_what_cannot_be_claimed_is_refused(folder):
    with pytest.raises(EvaluationError, match="a claim needs a student and teachers that are other models"):
        claimed(folder, ["biomedclip"])
    for margin in (0.0, -0.1, 1.0, np.inf, np.nan):
        with pytest.raises(EvaluationError, match="the margin of a claim must be above 0 and below 1"):
            claimed(folder, margin=margin)
    with pytest.raises(EvaluationError, match="no test set can be tested: zero_shot brains: mmkd was skipped"):
        claimed(folder, family=[("zero_shot", "brains")])
    with pytest.raises(EvaluationError, match="no result is of a model 'mmdk'"):
        claimed(folder, ["mmdk"])


def test_an_interval_that_is_not_to_be_trusted_shows_nothing(tmp_path):
    # With one positive in three items two equal models were "better" in 5 % of draws, twice as often as they may be.
    for model, skill in (("mmkd", 9.0), ("biomedclip", -9.0)):
        write_result(tmp_path, *zero_shot(model, "lungs", skill=skill, seed=1, count=6))
    said = claimed(tmp_path)
    assert said.sets[0].caution == "rests on 2 independent items of the rarest kind, fewer than 5"
    assert (said.sets[0].difference.p < ALPHA, said.sets[0].better, said.sets[0].not_worse) == (True, False, False)
    assert "not shown: better than every teacher on 0 of 1 set " in said.sentence
    assert said.sentence.endswith("not worse by 0.01 or more on 0")
    compared = compare(read_results(tmp_path), "mmkd", "biomedclip", evidence=Evidence(tmp_path, resamples=1000))
    assert (compared.rows[0].p_holm < 0.05, compared.rows[0].verdict) == (True, "undecided")


def test_the_footing_counts_one_of_a_kind(folder):
    said = claimed(folder, teachers=["biomedclip"], family=[("zero_shot", "lungs")])
    assert "1 teacher (biomedclip), not pmc_clip; Holm over 1 test set (declared beforehand)" in said.footing


def test_every_teacher_is_said_only_of_all_that_have_results(folder):
    assert "better than every teacher on" in claimed(folder, teachers=["biomedclip", "pmc_clip"]).sentence
    assert "better than every named teacher on" in claimed(folder, teachers=["biomedclip"]).sentence


@pytest.fixture
def with_images_alone(tmp_path):
    """A student, two teachers and one of images alone, which was skipped in zero-shot and has a linear probe."""
    seer = model_facts("seer", role="teacher").model_copy(update={"sides": ("image",)})
    for dataset in ("breasts", "lungs"):
        for model, skill in (("mmkd", 0.9), ("biomedclip", 0.3), ("pmc_clip", 0.2)):
            write_result(tmp_path, *zero_shot(model, dataset, skill=skill))
        write_result(tmp_path, skipped("seer", dataset).model_copy(update={"model": seer}))
    for model, skill in (("mmkd", 0.9), ("biomedclip", 0.3), ("pmc_clip", 0.2), ("seer", 0.4)):
        record, found = zero_shot(model, "lungs", skill=skill)
        facts = {"task": "linear_probe"} | ({"model": seer} if model == "seer" else {})
        write_result(tmp_path, record.model_copy(update=facts), found)
    return tmp_path


def test_a_teacher_of_images_alone_is_a_rival_where_images_are_enough_and_the_claim_says_so(with_images_alone):
    found = claimed(with_images_alone)
    rivals = {(one.task, one.dataset): set(one.by_teacher) for one in found.sets}
    both = {"biomedclip", "pmc_clip"}
    assert rivals == {
        ("linear_probe", "lungs"): {*both, "seer"},
        ("zero_shot", "breasts"): both,
        ("zero_shot", "lungs"): both,
    }
    assert found.sentence.startswith("mmkd: better than every teacher that can do the task on 3 of 3 sets")
    assert "; no rivals where texts are needed: seer, of images alone" in found.footing
    assert found.left_out == []


def test_where_no_rival_can_do_the_task_the_test_set_is_left_out_with_the_reason(with_images_alone):
    found = claimed(with_images_alone, teachers=["seer"])
    assert [(one.task, one.dataset) for one in found.sets] == [("linear_probe", "lungs")]
    assert found.left_out == [
        f"zero_shot {name}: the task needs texts, which no rival encodes: seer" for name in ("breasts", "lungs")
    ]
    assert found.images_alone == ()
