"""Numbers are printed without a negative zero, and in few characters however large they are."""

import math

import pytest

from console.decimals import decimal, interval, short


@pytest.mark.parametrize(("value", "plain", "signed"), [
    (0.0, "0.000", "0.000"), (-0.0, "0.000", "0.000"), (-0.0004, "0.000", "0.000"), (0.0004, "0.000", "0.000"),
    (-0.0006, "-0.001", "-0.001"), (0.25, "0.250", "+0.250"), (1e-9, "0.000", "0.000"), (-12.5, "-12.500", "-12.500"),
    (1e9, "1.000e+09", "+1.000e+09"), (-1e9, "-1.000e+09", "-1.000e+09"), (math.nan, "nan", "nan"),
    (math.inf, "inf", "+inf"), (-math.inf, "-inf", "-inf"),
])  # fmt: skip
def test_a_number_has_its_decimals_and_never_a_negative_zero(value: float, plain: str, signed: str) -> None:
    assert (decimal(value), decimal(value, signed=True)) == (plain, signed)


def test_both_ends_of_an_interval_have_their_leading_zero() -> None:
    assert interval(-0.0001, 0.0002, signed=True) == "0.000..0.000"
    assert interval(-0.333, 0.25, signed=True) == "-0.333..+0.250"
    assert interval(0.0321, 0.351) == "0.032..0.351"


@pytest.mark.parametrize(
    ("value", "text"), [(-0.0, "0"), (3.0, "3"), (5e-4, "0.0005"), (1e-9, "1e-09"), (1e9, "1e+09")]
)
def test_a_short_number_has_no_more_digits_than_it_needs(value: float, text: str) -> None:
    assert short(value) == text
