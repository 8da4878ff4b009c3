"""The improved recipe against its formulae written out in NumPy, and its masks and orders."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from open_clip.loss import DistillClipLoss
from torch.nn import functional

from store.errors import ConfigError
from tests.train.losses.test_loss import numpy_diagonal_cross_entropy
from tests.train.teacher_case import ROWS, SCALES, SIDES, STUDENT, WIDTHS, Case, numpy_unit
from train.losses.balance import dispersion_weights
from train.recipe_sections import ImprovedRecipe
from train.recipes.improved import ImprovedObjective, TeacherFacts


def head_outputs(objective, case, name, side):
    """A linear head's predictions of the rows that a teacher teaches."""
    head = getattr(objective.heads, side)[name]
    unit = numpy_unit(case.student[side][case.mask[name]])
    return unit @ head.weight.detach().numpy().T + head.bias.detach().numpy()


def numpy_softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def cosines(one, other):
    return (numpy_unit(one) * numpy_unit(other)).sum(axis=1)


def expected_distances(kind, predicted, feature, phi_s):
    back = predicted if phi_s is None else phi_s.mean_D + predicted @ np.linalg.inv(phi_s.matrix_DD).T
    wanted = feature if phi_s is None else (feature - phi_s.mean_D) @ phi_s.matrix_DD.T
    error = np.abs(predicted - wanted)
    smooth = np.where(error < 1, error**2 / 2, error - 0.5).mean(axis=1)
    return {
        "cos": 1 - cosines(back, feature),
        "angular": np.arccos(cosines(back, feature)) ** 2,
        "mse": (error**2).mean(axis=1),
        "cos_smooth_l1": 0.9 * (1 - cosines(back, feature)) + 0.1 * smooth,
    }[kind]


@pytest.mark.parametrize("phi_s", [True, False])
@pytest.mark.parametrize("balance", ["uniform", "dispersion"])
@pytest.mark.parametrize("distance", ["cos_smooth_l1", "mse", "cos", "angular"])
def test_the_feature_term_is_the_weighted_mean_of_all_available_teachers(phi_s, balance, distance):
    case = Case()
    objective = case.objective(phi_s=phi_s, balance=balance, distance=distance)
    terms = objective(*case.embeddings(), torch.tensor(9.0, dtype=torch.float64), case.given())
    sides = []
    for side in SIDES:
        found = {name: case.statistics.sides[name, side] for name in WIDTHS}
        weights = dispersion_weights({name: part.dispersion for name, part in found.items()})
        total = weight = 0.0
        for name in WIDTHS:
            one = weights[name] if balance == "dispersion" else 1.0
            predicted = head_outputs(objective, case, name, side)
            feature = case.features[name, side][case.mask[name]]
            distances = expected_distances(distance, predicted, feature, found[name].phi_s if phi_s else None)
            total, weight = total + one * distances.sum(), weight + one * len(distances)
        sides.append(total / weight)
    # The matrices of PHI-S are float32 here.
    assert terms["feature_loss"].item() == pytest.approx(np.mean(sides), abs=2e-6)


def test_the_relational_term_is_the_divergence_of_similarities_among_a_teachers_rows():
    case = Case()
    terms = case.objective()(*case.embeddings(), torch.tensor(9.0, dtype=torch.float64), case.given())
    total = count = 0.0
    for name, mask in case.mask.items():
        u, v = (numpy_unit(case.student[side][mask]) for side in SIDES)
        a, b = (case.features[name, side][mask] for side in SIDES)
        for ours, theirs in ((9 * u @ v.T, SCALES[name] * a @ b.T), (9 * v @ u.T, SCALES[name] * b @ a.T)):
            p, q = numpy_softmax(theirs), numpy_softmax(ours)
            total += (p * np.log(p / q)).sum() / 2
        count += mask.sum()
    assert terms["relational_loss"].item() == pytest.approx(total / count, abs=1e-12)


def test_the_interactive_term_contrasts_predictions_with_one_teachers_features_of_the_other_side():
    case = Case()
    objective = case.objective(interactive_weight=1.0, phi_s=False)
    terms = objective(*case.embeddings(), torch.tensor(9.0, dtype=torch.float64), case.given())
    total = count = 0.0
    for name, mask in case.mask.items():
        for one, other in (("image", "text"), ("text", "image")):
            query = numpy_unit(head_outputs(objective, case, name, one))
            logits = query @ case.features[name, other][mask].T / 0.07
            total += numpy_diagonal_cross_entropy(logits) * mask.sum() / 2
        count += mask.sum()
    assert terms["interactive_loss"].item() == pytest.approx(total / count, abs=1e-6)


def test_the_loss_is_the_weighted_sum_and_a_weight_of_0_leaves_a_term_out():
    case, scale = Case(), torch.tensor(9.0, dtype=torch.float64)
    settings = {"feature_weight": 2.0, "relational_weight": 0.5, "interactive_weight": 0.25}
    terms = case.objective(**settings)(*case.embeddings(), scale, case.given())
    weighted = 2 * terms["feature_loss"] + 0.5 * terms["relational_loss"] + 0.25 * terms["interactive_loss"]
    torch.testing.assert_close(terms["loss"], terms["task_loss"] + weighted)
    for left_out, name in (("feature_weight", "feature_loss"), ("relational_weight", "relational_loss")):
        assert name not in case.objective(**settings | {left_out: 0})(*case.embeddings(), scale, case.given())
    bare = case.objective(feature_weight=0)
    assert not list(bare.parameters())
    found = bare(*case.embeddings(), scale, case.given())
    assert found["loss"].item() == (found["task_loss"] + found["relational_loss"]).item()


VARIANTS = [
    {},
    {"interactive_weight": 1.0, "heads": "mlp", "distance": "angular"},
    {"balance": "uncertainty", "phi_s": False},
    {"balance": "unic_drop", "distance": "mse"},
]


def loss_and_gradients(case, objective, *, names=tuple(WIDTHS), order=None):
    embeddings = case.embeddings() if order is None else case.embeddings(order)
    scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    loss = objective(*embeddings, scale, case.given(names, order))["loss"]
    parameters = dict(objective.named_parameters())
    found = torch.autograd.grad(loss, [*embeddings, scale, *parameters.values()])
    return loss.item(), found[:2], dict(zip(["scale", *parameters], found[2:], strict=True))


@pytest.mark.parametrize("settings", VARIANTS)
def test_absent_features_may_be_nan_and_change_neither_loss_nor_gradient(settings):
    case, holed = Case(), Case()
    for name, mask in holed.mask.items():
        for side in SIDES:
            holed.features[name, side][~mask] = np.nan
    loss, gradients, _ = loss_and_gradients(case, case.objective(**settings))
    found, found_gradients, others = loss_and_gradients(holed, holed.objective(**settings))
    assert found == loss
    assert all(torch.equal(one, other) for one, other in zip(found_gradients, gradients, strict=True))
    assert all(torch.isfinite(gradient).all() for gradient in others.values())


@pytest.mark.parametrize("settings", VARIANTS)
def test_the_order_of_rows_and_of_teachers_leaves_the_loss_equal(settings):
    case, order = Case(), np.array([4, 0, 5, 2, 1, 3])
    objective = case.objective(**settings)
    loss, gradients, _ = loss_and_gradients(case, objective)
    permuted, permuted_gradients, _ = loss_and_gradients(case, objective, order=order)
    assert permuted == pytest.approx(loss, abs=1e-12)
    for one, other in zip(permuted_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other[torch.from_numpy(order)], rtol=1e-9, atol=1e-12)
    if settings.get("balance") == "unic_drop":
        return  # which coin is a teacher's goes by its place
    reversed_names = tuple(reversed(WIDTHS))
    turned = case.objective(reversed_names, **settings)
    turned.load_state_dict(objective.state_dict())
    found, _, _ = loss_and_gradients(case, turned, names=reversed_names)
    assert found == pytest.approx(loss, abs=1e-12)


def test_rows_without_any_teacher_and_batches_without_any_train_on_the_task():
    case = Case()
    for mask in case.mask.values():
        mask[:] = False
    loss, gradients, others = loss_and_gradients(case, case.objective(interactive_weight=1.0))
    terms = case.objective()(*case.embeddings(), torch.tensor(9.0, dtype=torch.float64), case.given())
    assert loss == terms["task_loss"].item()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert not any(gradient.any() for name, gradient in others.items() if name != "scale")


@pytest.mark.parametrize("settings", [*VARIANTS[:3], {"distance": "cos", "interactive_weight": 0.5}])
def test_gradients_agree_with_finite_differences(settings):
    case = Case(rows=4)
    objective, given = case.objective(**settings), case.given()

    def loss(image, text, log_scale):
        return objective(image, text, log_scale.exp(), given)["loss"]

    log_scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (*case.embeddings(), log_scale))


def test_with_one_teacher_everywhere_the_relational_term_is_open_clips_distillation_loss():
    case = Case()
    case.mask["b"][:] = True
    objective = case.objective(("b",), feature_weight=0)
    image, text = case.embeddings()
    terms = objective(image, text, torch.tensor(9.0, dtype=torch.float64), case.given(("b",)))
    teacher = [torch.from_numpy(case.features["b", side]) for side in SIDES]
    student = functional.normalize(image), functional.normalize(text)
    task, theirs = DistillClipLoss()(*student, 9.0, *teacher, SCALES["b"])
    logits = SCALES["b"] * teacher[0] @ teacher[1].T
    entropy = sum(torch.special.entr(part.softmax(dim=1)).sum() for part in (logits, logits.T)) / (2 * ROWS)
    assert terms["task_loss"].item() == pytest.approx(task.item(), abs=1e-12)
    assert terms["relational_loss"].item() == pytest.approx((theirs - entropy).item(), abs=1e-12)
    ours = torch.autograd.grad(terms["relational_loss"], (image, text), retain_graph=True)
    for one, other in zip(ours, torch.autograd.grad(theirs, (image, text)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_a_head_learns_what_its_teacher_says():
    case = Case()
    objective, given, scale = case.objective(heads="mlp"), case.given(), torch.tensor(9.0, dtype=torch.float64)
    image, text = (part.detach() for part in case.embeddings())
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-2)
    first = objective(image, text, scale, given)["feature_loss"].item()
    for _ in range(200):
        optimizer.zero_grad()
        found = objective(image, text, scale, given)["feature_loss"]
        found.backward()
        optimizer.step()
    assert found.item() < 0.1 * first


def test_heads_are_the_same_for_the_same_seed_and_leave_torchs_random_state_alone():
    case = Case()
    before = torch.random.get_rng_state()
    one, other = case.objective(), case.objective()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert one.state_dict().keys() == dict(one.named_parameters()).keys()


def test_learned_scales_of_the_interactive_term_stay_within_clips_bound():
    case = Case()
    objective = case.objective(interactive_weight=1.0)
    with torch.no_grad():
        objective.log_scales["b"].fill_(math.log(1e6))
    objective(*case.embeddings(), torch.tensor(9.0, dtype=torch.float64), case.given())
    assert objective.log_scales["b"].exp().item() == pytest.approx(100)


def test_a_teacher_whose_logit_scale_is_unknown_is_named():
    facts = {"a": TeacherFacts(width=4, logit_scale=1.0), "b": TeacherFacts(width=8, logit_scale=None)}
    with pytest.raises(ConfigError, match="specs of b do not say it") as caught:
        ImprovedObjective(ImprovedRecipe(feature_weight=0), facts, embed_dim=STUDENT)
    assert "improved.logit_scales" in caught.value.hint
    recipe = ImprovedRecipe(balance="uniform", phi_s=False, relational_weight=0)
    ImprovedObjective(recipe, facts, embed_dim=STUDENT)


def test_inside_an_autocast_region_products_are_rounded_but_no_prediction():
    def terms():
        case = Case()
        student = [part.detach().float() for part in case.embeddings()]
        return case.objective(interactive_weight=1.0).float()(*student, torch.tensor(20.0), case.given())

    outside = terms()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = terms()
    assert torch.equal(inside["feature_loss"], outside["feature_loss"])
    for name in ("task_loss", "relational_loss", "interactive_loss"):
        assert inside[name].dtype == torch.float32
        assert 1e-6 < abs(inside[name].item() / outside[name].item() - 1) < 0.02, name
