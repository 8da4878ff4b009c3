"""PHI-S: its defining properties, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from train.losses.phi_s import fit_phi_s, hadamard


def skewed_features(rows, width, seed=0):
    """Unit-norm features with very different variances in correlated directions."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(rows, width)) * np.geomspace(1, 0.01, width) @ rng.normal(size=(width, width))
    drawn += rng.normal(size=width)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.mark.parametrize("width", [1, 2, 12, 20, 32, 48, 64, 96, 512, 768, 1024])
def test_a_hadamard_matrix_is_a_rotation_with_entries_of_one_size(width):
    matrix = hadamard(width)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(width), atol=1e-12)
    np.testing.assert_allclose(np.abs(matrix), width**-0.5, rtol=1e-12)


def test_powers_of_two_are_sylvesters_matrices():
    np.testing.assert_allclose(hadamard(64), scipy.linalg.hadamard(64) / 8, atol=1e-15)


@pytest.mark.parametrize("width", [3, 100, 0])
def test_a_width_without_a_known_matrix_is_refused(width):
    with pytest.raises(ValueError, match=f"no Hadamard matrix of width {width} is known"):
        hadamard(width)


@pytest.mark.parametrize("width", [32, 48, 512, 768])
def test_every_dimension_has_standard_deviation_1_and_the_matrix_is_a_multiple_of_a_rotation(width):
    features = skewed_features(2 * width, width)
    phi_s = fit_phi_s(features)
    found = (features - phi_s.mean_D) @ phi_s.matrix_DD.T
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(found.std(axis=0), 1, rtol=1e-9)
    product = phi_s.matrix_DD @ phi_s.matrix_DD.T
    np.testing.assert_allclose(product / product[0, 0], np.eye(width), atol=1e-10)
    np.testing.assert_allclose(product[0, 0], 1 / features.var(axis=0).mean(), rtol=1e-10)


def test_the_inverse_leads_back():
    features = skewed_features(200, 48)
    phi_s = fit_phi_s(features)
    np.testing.assert_allclose(
        phi_s.mean_D + (features - phi_s.mean_D) @ phi_s.matrix_DD.T @ phi_s.inverse.T, features, atol=1e-12
    )
    np.testing.assert_allclose(phi_s.inverse, np.linalg.inv(phi_s.matrix_DD), atol=1e-10)


def test_fewer_features_than_dimensions_are_enough():
    features = skewed_features(10, 64)
    phi_s = fit_phi_s(features)
    np.testing.assert_allclose((features @ phi_s.matrix_DD.T).std(axis=0), 1, rtol=1e-9)


def test_features_that_do_not_vary_are_refused():
    with pytest.raises(ValueError, match="4 features do not vary"):
        fit_phi_s(np.zeros((4, 8)))
