"""The released recipe: golden numbers, and what each switch does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.train.losses.test_loss import LOGIT_SCALE, drawn_inputs, golden_inputs, numpy_paper_terms
from tests.train.teacher_case import identity_projection
from train.data.targets import Targets, TeacherTargets
from train.losses.distillation import CORRECTED_INTERACTIVE_SCALE
from train.losses.objective import Given
from train.recipe_sections import PaperRecipe
from train.recipes.paper import PaperObjective
from train.recipes.projection import Projection, apply_projection


def given_of(*teachers, rows):
    """Return an objective's input from each teacher's image and text features and places."""
    targets = Targets(
        rows=rows,
        teachers={
            f"t{number}": TeacherTargets(image_KD=image, text_KD=text, places_K=torch.tensor(places, dtype=torch.int64))
            for number, (image, text, places) in enumerate(teachers)
        },
    )
    return Given(rows_B=np.arange(rows), step=0, targets=targets)


def objective_of(*, teachers=1, width=8, **settings):
    hashes = {f"t{number}": "0" for number in range(teachers)}
    recipe = PaperRecipe(**{"feature_dtype": "fp32", **settings})
    return PaperObjective(recipe, identity_projection(hashes, width)).double()


def test_the_recipe_has_the_golden_values_and_gradients():
    image, text, teacher_image, teacher_text = golden_inputs()
    given = given_of((teacher_image, teacher_text, range(4)), rows=4)
    terms = objective_of()(image, text, torch.tensor(LOGIT_SCALE, dtype=torch.float64), given)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {
            "loss": 37.51099693276869,
            "task_loss": 8.986496304813635,
            "feature_loss": 0.5275366572483278,
            "interactive_loss": 2.147667765538671,
        },
        abs=1e-9,
    )
    image_gradient, text_gradient = torch.autograd.grad(terms["loss"], (image, text))
    assert image_gradient.norm().item() == pytest.approx(5.102123781561908, abs=1e-9)
    assert text_gradient.norm().item() == pytest.approx(3.997415981896919, abs=1e-9)


def split_given(teacher_image, teacher_text, *, rows=6):
    """Rows 0, 3 and 5 have the first teacher, 1 and 4 the second, 2 has none."""
    places = [0, 3, 5], [1, 4]
    return given_of(*((teacher_image[list(of)], teacher_text[list(of)], of) for of in places), rows=rows)


def test_features_are_projected_by_the_map_of_their_teacher():
    image, text, *_ = drawn_inputs()
    widths, generator = {"t0": 3, "t1": 4}, torch.Generator().manual_seed(1)
    projection = Projection(
        weights={name: torch.randn(5, width, generator=generator) for name, width in widths.items()},
        biases={name: torch.randn(5, generator=generator) for name in widths},
        spec_hashes=dict.fromkeys(widths, "0"),
        settings={},
    )
    features = [torch.randn(count, width, generator=generator) for count, width in ((3, 3), (3, 3), (2, 4), (2, 4))]
    given = given_of((features[0], features[1], [0, 3, 5]), (features[2], features[3], [1, 4]), rows=6)
    recipe = PaperRecipe(feature_dtype="fp32")
    found = PaperObjective(recipe, projection).double()(image, text, torch.tensor(5.0), given)
    projected = [
        torch.cat(
            [
                apply_projection(features[place], projection.weights[name], projection.biases[name])
                for name, place in (("t0", side), ("t1", 2 + side))
            ]
        ).double()
        for side in (0, 1)
    ]
    order = [0, 3, 5, 1, 4]
    inputs = [part.numpy() for part in (image[order], text[order], *projected)]
    _, feature, interactive = numpy_paper_terms(*inputs, logit_scale=5.0, interactive_scale=2.6592600345611572)
    assert found["feature_loss"].item() == pytest.approx(feature, abs=1e-5)
    assert found["interactive_loss"].item() == pytest.approx(interactive, abs=1e-5)


def test_a_row_without_a_teacher_counts_in_the_task_only():
    image, text, teacher_image, teacher_text = drawn_inputs()
    found = objective_of(teachers=2, width=5)(image, text, torch.tensor(7.0), split_given(teacher_image, teacher_text))
    kept = [part[[0, 3, 5, 1, 4]].numpy() for part in (image, text, teacher_image, teacher_text)]
    expected = numpy_paper_terms(*kept, logit_scale=7.0, interactive_scale=2.6592600345611572)
    assert found["feature_loss"].item() == pytest.approx(expected[1], abs=1e-12)
    assert found["interactive_loss"].item() == pytest.approx(expected[2], abs=1e-12)
    whole = numpy_paper_terms(
        image.numpy(), text.numpy(), image.numpy(), text.numpy(), logit_scale=7.0, interactive_scale=1
    )
    assert found["task_loss"].item() == pytest.approx(whole[0], abs=1e-12)


def test_a_batch_without_any_teacher_trains_on_the_task_alone():
    image, text, teacher_image, teacher_text = drawn_inputs()
    given = given_of((teacher_image[:0], teacher_text[:0], []), rows=6)
    terms = objective_of(width=5)(image.requires_grad_(), text, torch.tensor(7.0), given)
    assert terms["feature_loss"].item() == terms["interactive_loss"].item() == 0
    torch.testing.assert_close(terms["loss"], terms["task_loss"])
    assert torch.isfinite(torch.autograd.grad(terms["loss"], image)[0]).all()


def test_target_norm_l2_makes_the_length_of_features_irrelevant():
    image, text, teacher_image, teacher_text = drawn_inputs()
    short, long = (given_of((teacher_image * r, teacher_text * r, range(6)), rows=6) for r in (0.3, 7.0))
    scale = torch.tensor(7.0)
    objective = objective_of(width=5, target_norm="l2")
    assert objective(image, text, scale, short)["loss"].item() == pytest.approx(
        objective(image, text, scale, long)["loss"].item(), abs=1e-12
    )
    as_given = objective_of(width=5)
    assert as_given(image, text, scale, short)["loss"].item() != pytest.approx(
        as_given(image, text, scale, long)["loss"].item(), abs=1
    )


def test_feature_dtype_bf16_rounds_the_projected_features():
    inputs = drawn_inputs()
    rounded = [part.bfloat16().double() for part in inputs[2:]]
    scale = torch.tensor(7.0)
    found = objective_of(width=5, feature_dtype="bf16")(*inputs[:2], scale, given_of((*inputs[2:], range(6)), rows=6))
    expected = objective_of(width=5)(*inputs[:2], scale, given_of((*rounded, range(6)), rows=6))
    assert found["loss"].item() == pytest.approx(expected["loss"].item(), abs=1e-12)
    assert PaperRecipe().feature_dtype == "bf16"


@pytest.mark.parametrize(("setting", "scale"), [("log", 2.6592600345611572), ("exp", 1 / 0.07), ("learned", 1 / 0.07)])
def test_interactive_scale_is_the_released_constant_or_the_meant_value_or_learned_from_there(setting, scale):
    image, text, teacher_image, teacher_text = drawn_inputs()
    objective = objective_of(width=5, interactive_scale=setting)
    given = given_of((teacher_image, teacher_text, range(6)), rows=6)
    terms = objective(image, text, torch.tensor(7.0), given)
    expected = numpy_paper_terms(
        *(part.detach().numpy() for part in (image, text, teacher_image, teacher_text)),
        logit_scale=7.0,
        interactive_scale=float(scale),
    )[2]
    assert terms["interactive_loss"].item() == pytest.approx(expected, abs=1e-6)
    terms["interactive_loss"].requires_grad_().backward()
    gradients = [parameter.grad.item() for parameter in objective.parameters()]
    assert len(gradients) == (setting == "learned")
    assert all(gradients)


def test_a_learned_scale_stays_within_clips_bound():
    objective = objective_of(width=5, interactive_scale="learned")
    with torch.no_grad():
        objective.log_scale.fill_(math.log(1e6))
    image, text, teacher_image, teacher_text = drawn_inputs()
    objective(image, text, torch.tensor(7.0), given_of((teacher_image, teacher_text, range(6)), rows=6))
    assert objective.log_scale.exp().item() == pytest.approx(100)


def test_teacher_sampling_all_contrasts_within_each_teacher_and_averages_over_all_features():
    image, text, teacher_image, teacher_text = drawn_inputs()
    other_image, other_text, *_ = drawn_inputs(seed=5)
    places = [0, 1, 2, 4], [1, 2, 5]
    given = given_of(
        (teacher_image[places[0]], teacher_text[places[0]], places[0]),
        (other_image[places[1]], other_text[places[1]], places[1]),
        rows=6,
    )
    found = objective_of(teachers=2, width=5, teacher_sampling="all")(image, text, torch.tensor(7.0), given)
    alone = [
        numpy_paper_terms(
            *(part[of].numpy() for part in (image, text, features_image, features_text)),
            logit_scale=7.0,
            interactive_scale=2.6592600345611572,
        )
        for of, features_image, features_text in (
            (places[0], teacher_image, teacher_text),
            (places[1], other_image, other_text),
        )
    ]
    for name, number in (("feature_loss", 1), ("interactive_loss", 2)):
        assert found[name].item() == pytest.approx((4 * alone[0][number] + 3 * alone[1][number]) / 7, abs=1e-12)


@pytest.mark.parametrize(
    ("local_loss", "harm"), [(True, "no gradient at all"), (False, "divided by the number of ranks")]
)
def test_gather_settings_without_the_whole_gradient_are_refused(local_loss, harm):
    with pytest.raises(ValidationError, match=f"(?s)gather_with_grad: false.*{harm}.*set gather_with_grad: true"):
        PaperRecipe(local_loss=local_loss, gather_with_grad=False)


def test_the_papers_objective_refuses_batches_without_targets():
    with pytest.raises(ValueError, match="needs batches with targets"):
        objective_of()(torch.ones(4, 2), torch.ones(4, 2), torch.tensor(1.0), Given(np.arange(4), 0, None))


def test_the_meant_scale_is_the_exponential_of_the_released_constant():
    assert pytest.approx(math.exp(2.6592600345611572), rel=1e-6) == CORRECTED_INTERACTIVE_SCALE
