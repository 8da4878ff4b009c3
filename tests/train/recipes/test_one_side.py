"""Teachers that encode images alone, in both recipes, in projections and statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.train.losses.test_loss import drawn_inputs, numpy_paper_terms
from tests.train.recipes.test_autoencoder import WIDTHS as AE_WIDTHS
from tests.train.recipes.test_autoencoder import drawn_batch, drawn_features, small_model
from tests.train.recipes.test_improved import SIDES, cosines, head_outputs
from tests.train.recipes.test_paper import given_of, objective_of
from tests.train.teacher_case import WIDTHS, Case, numpy_unit
from train.data.batch_order import BatchOrder
from train.data.random_bits import draw_teacher
from train.data.target_reader import Span, TargetReader
from train.recipe_sections import ImprovedRecipe
from train.recipes.autoencoder import FitSettings, TeacherBatch, TeacherFeatures, fit_projection
from train.recipes.choose import teacher_facts
from train.recipes.teacher_statistics import TeacherStatistics, fit_statistics

SCALE = torch.tensor(9.0, dtype=torch.float64)


@pytest.mark.parametrize("sampling", ["uniform_one", "all"])
def test_the_papers_terms_of_texts_count_the_rows_whose_teacher_encodes_them(sampling):
    image, text, teacher_image, teacher_text = drawn_inputs()
    paired, alone = [0, 3, 5], [1, 4]
    given = given_of(
        (teacher_image[paired], teacher_text[paired], paired), (teacher_image[alone], None, alone), rows=len(image)
    )
    found = objective_of(teachers=2, width=5, teacher_sampling=sampling)(image, text, torch.tensor(7.0), given)
    parts = [part[paired].detach().numpy() for part in (image, text, teacher_image, teacher_text)]
    _, both, interactive = numpy_paper_terms(*parts, logit_scale=7.0, interactive_scale=2.6592600345611572)
    unit, taught = numpy_unit(image.detach().numpy()), [*paired, *alone]
    of_texts = both - ((unit[paired] - parts[2]) ** 2).mean()
    of_images = ((unit[taught] - teacher_image[taught].numpy()) ** 2).mean()
    assert found["feature_loss"].item() == pytest.approx(of_images + of_texts, abs=1e-12)
    assert found["interactive_loss"].item() == pytest.approx(interactive, abs=1e-12)


@pytest.mark.parametrize("sampling", ["uniform_one", "all"])
def test_with_teachers_of_images_alone_the_papers_text_tower_learns_from_the_task_only(sampling):
    image, text, teacher_image, _ = (part.detach().requires_grad_() for part in drawn_inputs())
    given = given_of((teacher_image.detach(), None, range(6)), rows=6)
    objective = objective_of(width=5, teacher_sampling=sampling, interactive_scale="learned")
    terms = objective(image, text, torch.tensor(7.0), given)
    assert terms["interactive_loss"].item() == 0
    expected = ((numpy_unit(image.detach().numpy()) - teacher_image.detach().numpy()) ** 2).mean()
    assert terms["feature_loss"].item() == pytest.approx(expected, abs=1e-12)
    of_loss, of_task = (torch.autograd.grad(terms[name], text, retain_graph=True)[0] for name in ("loss", "task_loss"))
    torch.testing.assert_close(of_loss, of_task)


def test_the_draw_is_one_of_all_teachers_of_a_row_and_two_sided_stores_draw_as_before(make_store):
    store = make_store(seer=True)
    available_NT, rows = store.available("all"), np.arange(16)
    reader = TargetReader(store, teachers=store.teachers, available_NT=available_NT, seed=3)
    targets = reader.read(rows, np.zeros(16, np.int64))
    drawn = draw_teacher(available_NT[rows], rows, seed=3, epoch=0)
    for number, (name, part) in enumerate(targets.teachers.items()):
        assert part.places_K.tolist() == np.flatnonzero(drawn == number).tolist()
        assert (part.text_KD is None) == (name == "seer")
    assert len(targets.teachers["seer"].places_K)


def test_spans_parts_and_kept_rows_carry_the_missing_side(make_store):
    store = make_store(seer=True)
    rows = np.flatnonzero(store.available("all").any(axis=1))
    order = BatchOrder(rows, seed=1, batch_size=8, block_rows=8, window_blocks=2)
    reader = TargetReader(store, teachers=store.teachers, available_NT=store.available("all"), seed=3, sampling="all")
    span = Span(np.concatenate([order[0], order[1]]), np.zeros(16, np.int64))
    whole = reader.read_span(span, None)
    for part in (*whole.parts(8), whole.part(2, 5), whole.keep(torch.arange(16) % 2 == 0), whole.to("cpu")):
        seer = part.teachers["seer"]
        assert seer.text_KD is None
        assert len(seer.image_KD) == len(seer.places_K)
    kept = whole.keep(torch.arange(16) % 2 == 0).teachers["seer"]
    expected = store.read(span.rows_S[::2][kept.places_K.numpy()], teacher="seer", side="image")
    assert np.array_equal(kept.image_KD.numpy(), expected)


@pytest.mark.parametrize("balance", ["uniform", "dispersion", "uncertainty", "unic_drop"])
def test_improved_relations_are_those_of_the_teachers_that_encode_both_sides(balance):
    case, settings = Case(one_sided=("b",)), {"interactive_weight": 1.0, "balance": balance}
    terms = case.objective(**settings)(*case.embeddings(), SCALE, case.given())
    others = [name for name in WIDTHS if name != "b"]
    alone = case.objective(others, **settings)
    expected = alone(*case.embeddings(), SCALE, case.given(others))
    torch.testing.assert_close(terms["relational_loss"], expected["relational_loss"])
    assert set(case.objective(**settings).heads.text) == set(others)
    assert set(case.objective(**settings).log_scales) == set(others)


def test_the_improved_feature_term_takes_the_mean_of_each_side_over_its_own_teachers():
    case = Case(one_sided=("b",))
    objective = case.objective(phi_s=False, balance="uniform", distance="cos")
    terms = objective(*case.embeddings(), SCALE, case.given())
    sides = []
    for side in SIDES:
        names = [name for name in WIDTHS if side in case.sides_of(name)]
        of_rows = [
            1 - cosines(head_outputs(objective, case, name, side), case.features[name, side][case.mask[name]])
            for name in names
        ]
        sides.append(np.concatenate(of_rows).mean())
    assert terms["feature_loss"].item() == pytest.approx(np.mean(sides), abs=1e-6)


def test_with_teachers_of_images_alone_the_improved_terms_of_texts_are_absent_or_zero():
    case = Case(one_sided=tuple(WIDTHS))
    objective = case.objective(interactive_weight=1.0)
    terms = objective(*case.embeddings(), SCALE, case.given())
    assert (terms["relational_loss"].item(), terms["interactive_loss"].item()) == (0, 0)
    assert terms["feature_loss"].item() > 0
    assert not len(objective.heads.text)


def test_no_logit_scale_is_asked_of_a_teacher_of_images_alone(make_store):
    store = make_store(seer=True)
    facts = teacher_facts(store, ["seer"], ImprovedRecipe())
    assert facts["seer"].sides == ("image",)
    assert Case(one_sided=("b",)).objective(relational_weight=1.0)


def test_statistics_are_of_the_sides_that_are_there_and_survive_their_file(make_store, tmp_path):
    store = make_store(seer=True)
    settings = {"rows": 1000, "seed": 3, "phi_s": True}
    found = fit_statistics(store, store.teachers, store.available("all"), **settings)
    assert ("seer", "image") in found.sides
    assert ("seer", "text") not in found.sides
    found.save(tmp_path / "file")
    assert set(TeacherStatistics.load(tmp_path / "file").sides) == set(found.sides)


def test_the_auto_encoders_loss_is_the_mean_over_the_features_that_are_there():
    model, batch = small_model().eval(), drawn_batch()
    batch["plip"] = TeacherBatch(batch["plip"].image, None, batch["plip"].available)
    errors = []
    for teacher, part in batch.items():
        for row in torch.nonzero(part.available)[:, 0]:
            for features, layers in ((part.image, model.image_layers), (part.text, model.text_layers)):
                if features is not None:
                    restored = model.restore[teacher](layers(model.project[teacher](features[row])))
                    errors.append(torch.nn.functional.mse_loss(restored, features[row]))
    torch.testing.assert_close(model(batch), torch.stack(errors).mean())


@pytest.mark.parametrize("one_sided", [["plip"], [*AE_WIDTHS]])
def test_a_projection_is_fitted_to_image_features_alone(one_sided):
    features = {
        name: TeacherFeatures(
            rows=part.rows,
            image=part.image,
            text=None if name in one_sided else part.text,
            spec_hash=part.spec_hash,
        )
        for name, part in drawn_features().items()
    }
    settings = FitSettings(latent_dim=8, hidden_dim=32, steps=150, batch_size=64, lr=3e-3, seed=1)
    fitted = fit_projection(features, settings)
    assert set(fitted.projection.weights) == set(AE_WIDTHS)
    assert math.isfinite(fitted.mse_of_mean)
    assert fitted.mse_after < fitted.mse_before
