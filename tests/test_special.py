"""erf, compared with the C library's element by element."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numpy_gpt2.special import erf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_erf_is_within_3_units_in_the_last_place(dtype):
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [np.linspace(-7, 7, 40_001), rng.uniform(-1, 1, 20_000), 10.0 ** rng.uniform(-37, 1, 20_000)]
    ).astype(dtype)
    expected = np.array([math.erf(value) for value in x.astype(np.float64)])
    actual = erf(x)
    assert actual.dtype == dtype
    np.testing.assert_allclose(actual, expected, rtol=3 * np.finfo(dtype).eps, atol=0)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_erf_equals_the_c_librarys_for_any_float(x):
    expected = math.erf(x)
    with np.errstate(all="raise", under="ignore"):
        actual = float(erf(np.array([x]))[0])
    assert actual == pytest.approx(expected, rel=1e-15, abs=5e-324, nan_ok=True)


def test_erf_keeps_shape_and_the_sign_of_zero():
    assert erf(np.zeros((2, 0, 3))).shape == (2, 0, 3)
    assert math.copysign(1, erf(np.array([-0.0]))[0]) == -1
