from __future__ import annotations

import numpy as np
import pytest
import torch

from store.errors import TrainingDivergedError
from train.recipes.autoencoder import (
    FitSettings,
    ProjectionAutoEncoder,
    TeacherBatch,
    TeacherFeatures,
    _RowTable,
    fit_projection,
)

WIDTHS = {"bmca": 32, "plip": 24}
LATENT_DIM = 8
FIT = {"latent_dim": LATENT_DIM, "hidden_dim": 64, "steps": 200, "batch_size": 128, "lr": 3e-3, "seed": 1}
SHORT = FIT | {"hidden_dim": 16, "steps": 5}


def drawn_features(noise=0.0, rows=600, rank=4):
    """Unit-norm fp16 features of `rank` hidden factors, each teacher available on its own 80 % of the rows."""
    generator = np.random.default_rng(0)
    factors = generator.normal(size=(rows, rank))
    features = {}
    for teacher, width in WIDTHS.items():
        kept = np.sort(generator.permutation(rows)[: rows * 4 // 5])
        spread = generator.normal(size=(rank, width))
        sides = {}
        for side in ("image", "text"):
            outputs = (factors + 0.1 * generator.normal(size=factors.shape)) @ spread
            outputs += noise * generator.normal(size=outputs.shape)
            sides[side] = (outputs / np.linalg.norm(outputs, axis=1, keepdims=True)).astype(np.float16)[kept]
        features[teacher] = TeacherFeatures(rows=kept * 3, spec_hash=f"hash of {teacher}", **sides)
    return features


def drawn_batch(rows=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    available = {"bmca": [1, 1, 0, 1, 0, 1], "plip": [0, 1, 1, 0, 0, 0]}
    return {
        teacher: TeacherBatch(
            torch.randn(rows, width, generator=generator),
            torch.randn(rows, width, generator=generator),
            torch.tensor(available[teacher], dtype=torch.bool),
        )
        for teacher, width in WIDTHS.items()
    }


def small_model(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ProjectionAutoEncoder(WIDTHS, latent_dim=LATENT_DIM, hidden_dim=16, **options)


def best_affine_error(features, held):
    """Held-out error of the best affine subspace of LATENT_DIM dimensions for each teacher, both sides together."""
    error_sum, count = 0.0, 0
    for part in _RowTable(features).batch(held, "cpu").values():
        both = torch.cat([part.image[part.available], part.text[part.available]]).double().numpy()
        singular_values = np.linalg.svd(both - both.mean(axis=0), compute_uv=False)
        error_sum += (singular_values[LATENT_DIM:] ** 2).sum() / both.shape[1]
        count += len(both)
    return error_sum / count


def test_fitting_restores_features_of_few_factors():
    fitted = fit_projection(drawn_features(), FitSettings(**FIT))
    assert fitted.mse_after < 0.1 * fitted.mse_of_mean
    assert fitted.mse_before > fitted.mse_of_mean


def test_no_auto_encoder_beats_the_best_affine_subspace_of_its_latent_width():
    features = drawn_features(noise=0.3)
    fitted = fit_projection(features, FitSettings(**FIT))
    _, held = _RowTable(features).divide(seed=FIT["seed"], holdout=0.1)
    # The last layer maps the latent width affinely to the teacher's, the same one for both sides.
    bound = best_affine_error(features, held)
    assert 0 < bound <= fitted.mse_after < 5 * bound


def test_the_reported_mean_error_is_that_of_predicting_each_mean():
    features = drawn_features()
    train, held = _RowTable(features).divide(seed=1, holdout=0.25)
    rows = np.unique(np.concatenate([part.rows for part in features.values()]))
    errors = []
    for part in features.values():
        for side in (part.image.astype(np.float64), part.text.astype(np.float64)):
            mean = side[np.isin(part.rows, rows[train])].mean(axis=0)
            errors += [np.mean((feature - mean) ** 2) for feature in side[np.isin(part.rows, rows[held])]]
    fitted = fit_projection(features, FitSettings(**SHORT, holdout=0.25))
    assert fitted.mse_of_mean == pytest.approx(np.mean(errors), rel=1e-12)
    assert len(held) == round(0.25 * len(rows))


def test_without_steps_nothing_is_learned():
    fitted = fit_projection(drawn_features(), FitSettings(**SHORT | {"steps": 0}))
    assert fitted.mse_after == fitted.mse_before


def test_the_same_seed_gives_the_same_projection_whatever_the_global_state():
    features = drawn_features()
    torch.manual_seed(5)
    first = fit_projection(features, FitSettings(**SHORT))
    torch.manual_seed(6)
    state = torch.get_rng_state()
    second = fit_projection(features, FitSettings(**SHORT))
    other = fit_projection(features, FitSettings(**SHORT | {"seed": 2}))
    assert torch.equal(torch.get_rng_state(), state)
    assert second.mse_after == first.mse_after
    for teacher in WIDTHS:
        assert torch.equal(second.projection.weights[teacher], first.projection.weights[teacher])
        assert not torch.equal(other.projection.weights[teacher], first.projection.weights[teacher])


def test_the_sequence_of_a_teachers_rows_does_not_matter():
    features = drawn_features()
    order = np.random.default_rng(3).permutation(len(features["plip"].rows))
    plip = features["plip"]
    turned = TeacherFeatures(
        rows=plip.rows[order], image=plip.image[order], text=plip.text[order], spec_hash=plip.spec_hash
    )
    expected = fit_projection(features, FitSettings(**SHORT))
    found = fit_projection(features | {"plip": turned}, FitSettings(**SHORT))
    assert torch.equal(found.projection.weights["plip"], expected.projection.weights["plip"])


def test_the_projection_is_the_first_layer_bound_to_its_specs_and_settings():
    fitted = fit_projection(drawn_features(), FitSettings(**SHORT))
    projection = fitted.projection
    assert {teacher: tuple(weight.shape) for teacher, weight in projection.weights.items()} == {
        "bmca": (LATENT_DIM, 32),
        "plip": (LATENT_DIM, 24),
    }
    assert projection.spec_hashes == {"bmca": "hash of bmca", "plip": "hash of plip"}
    assert projection.settings["steps"] == 5
    assert projection.settings["mse_after"] == fitted.mse_after
    assert not any(weight.requires_grad for weight in projection.weights.values())


def test_every_step_is_reported():
    seen = []
    fit_projection(drawn_features(), FitSettings(**SHORT), on_step=lambda step, loss: seen.append((step, loss)))
    assert [step for step, _ in seen] == [0, 1, 2, 3, 4]
    assert seen[-1][1] < seen[0][1]


def test_the_loss_is_the_mean_over_available_features_one_by_one():
    model, batch = small_model().eval(), drawn_batch()
    errors = []
    for teacher, part in batch.items():
        for row in torch.nonzero(part.available)[:, 0]:
            for feature, layers in ((part.image[row], model.image_layers), (part.text[row], model.text_layers)):
                restored = model.restore[teacher](layers(model.project[teacher](feature)))
                errors.append(torch.nn.functional.mse_loss(restored, feature))
    torch.testing.assert_close(model(batch), torch.stack(errors).mean())


def test_absent_features_touch_neither_loss_nor_gradient():
    model, batch = small_model().eval(), drawn_batch()
    expected = torch.autograd.grad(model(batch), list(model.parameters()))
    holed = {}
    for teacher, part in batch.items():
        absent = ~part.available[:, None]
        sides = (side.masked_fill(absent, float("nan")) for side in (part.image, part.text))
        holed[teacher] = TeacherBatch(*sides, part.available)
    assert torch.equal(model(holed), model(batch))
    for one, other in zip(torch.autograd.grad(model(holed), list(model.parameters())), expected, strict=True):
        assert torch.equal(one, other)


def test_a_batch_without_any_feature_gives_zero_and_no_gradient():
    model = small_model()
    empty = {
        teacher: TeacherBatch(part.image, part.text, torch.zeros_like(part.available))
        for teacher, part in drawn_batch().items()
    }
    loss = model(empty)
    assert loss.item() == 0.0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("options", [{"dropout": 0.0, "noise_std": 0.1}, {"dropout": 0.5, "noise_std": 0.0}])
def test_noise_and_dropout_act_in_training_only(options):
    model, batch = small_model(**options), drawn_batch()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert model(batch) != model(batch)
        model.eval()
        assert torch.equal(model(batch), model(batch))


def test_features_that_are_not_finite_end_as_divergence():
    features = drawn_features()
    features["plip"].image[:] = np.nan
    with pytest.raises(TrainingDivergedError, match="error on held-out rows is nan after 5 steps") as caught:
        fit_projection(features, FitSettings(**SHORT))
    assert "learning rate" in caught.value.hint


def test_arguments_that_cannot_work_are_refused():
    features = drawn_features()
    lonely = TeacherFeatures(rows=np.array([9_999]), image=np.ones((1, 4)), text=np.ones((1, 4)), spec_hash="x")
    with pytest.raises(ValueError, match="holdout must lie between 0 and 1, got 1"):
        fit_projection(features, FitSettings(**SHORT, holdout=1))
    with pytest.raises(ValueError, match="at least one teacher"):
        fit_projection({}, FitSettings(**SHORT))
    with pytest.raises(ValueError, match="no rows to fit on, after 1 were held out: plip"):
        fit_projection({"plip": lonely}, FitSettings(**SHORT))


def test_features_whose_arrays_do_not_match_are_refused():
    image = np.zeros((3, 4), dtype=np.float16)
    with pytest.raises(ValueError, match=r"differ in shape: \(3, 4\), \(3, 5\)"):
        TeacherFeatures(rows=np.arange(3), image=image, text=np.zeros((3, 5)), spec_hash="x")
    for rows in (np.arange(2), np.array([1, 2, 1])):
        with pytest.raises(ValueError, match="expected 3 distinct rows"):
            TeacherFeatures(rows=rows, image=image, text=image, spec_hash="x")
