from __future__ import annotations

import numpy as np

from .stored_dtypes import cosine_errors, from_int8, to_int8


def test_an_int8_row_comes_back_within_half_a_step():
    rows_ND = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)
    values_ND, scale_N1 = to_int8(rows_ND)
    assert values_ND.dtype == np.int8
    assert scale_N1.shape == (40, 1)
    assert np.array_equal(np.abs(values_ND).max(axis=1), np.full(40, 127))
    assert np.all(np.abs(from_int8(values_ND, scale_N1) - rows_ND) <= scale_N1 * 0.5001)


def test_a_row_of_zeros_stays_zeros_in_int8():
    rows_ND = np.zeros((2, 8), np.float32)
    assert np.array_equal(from_int8(*to_int8(rows_ND)), rows_ND)


def test_a_cosine_error_is_one_minus_the_cosine():
    exact_ND = np.array([[3.0, 4.0], [1.0, 0.0]])
    stored_ND = np.array([[3.0, 4.0], [1.0, 1.0]])
    assert np.allclose(cosine_errors(exact_ND, stored_ND), [0, 1 - 0.5**0.5])
