"""The equations that a path states: which ones, normalised how, and whether they hold."""

from __future__ import annotations

import operator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsi.vote import equation_is_true, equation_list, equations

CASES = [
    ("5 + 3 = 8", [("5+3=8", True)]),
    ("5 apples + 3 red apples = 8 apples.", [("5+3=8", True)]),
    ("$5.50 + $3 = $8.50", [("5.5+3=8.5", True)]),
    ("48/2 = <<48/2=24>>24", [("48/2=24", True)]),
    ("3 + 4 = 7 + 2 = 9", [("3+4=7+2", False), ("7+2=9", True)]),
    ("(3+4)*2 = 14", [("(3+4)*2=14", True)]),
    ("(-3 + 5) * 2 = 4", [("(-3+5)*2=4", True)]),
    ("5 * -3 = -15", [("5*-3=-15", True)]),
    ("10/3 = 3.33", [("10/3=3.33", True)]),
    ("10/3 = 3.34", [("10/3=3.34", False)]),
    ("10/3 = 3", [("10/3=3", False)]),
    ("10 / 3 \u2248 3", [("10/3=3", True)]),
    ("10 / 3 is about 3", [("10/3=3", True)]),
    ("20% of 50 = 10", [("20%*50=10", True)]),
    ("10/40 = 25%", [("10/40=25%", True)]),
    ("30 + 20 = 50%", [("30+20=50%", True)]),
    ("1/2 of 10 is 5", [("1/2*10=5", True)]),
    ("5 plus 3 is 8, and 8 times 2 equals 17", [("5+3=8", True), ("8*2=17", False)]),
    ("12 divided by 4 equals 3", [("12/4=3", True)]),
    ("total = 5 + 3 = 8", [("5+3=8", True)]),
    ("- 3 + 4 = 7\n- 5 - 2 = 4", [("3+4=7", True), ("5-2=4", False)]),
    ("1. 3 + 4 = 7\n2) 5 - 2 = 3", [("3+4=7", True), ("5-2=3", True)]),
    ("$3 \\times 4 = 12$", [("3*4=12", True)]),
    ("5 \u00d7 3 = 15 \u2212 0", [("5*3=15-0", True)]),
    ("5x3=15", [("5*3=15", True)]),
    ("3 dogs x 4 legs = 12 legs", [("3*4=12", True)]),
    ("7 - 9 = -2", [("7-9=-2", True)]),
    ("1/0 = 3", [("1/0=3", False)]),
    ("1,000 + 2 = 1,002", [("1000+2=1002", True)]),
    ("2 + 3 = 5 - that is all", [("2+3=5", True)]),
    ("2 + 1 = 3 times as many", [("2+1=3", True)]),
    ("\\frac{1}{2} + \\frac{1}{2} = 1", [("(1/2)+(1/2)=1", True)]),
    ("2 + 3 * 4 = 14", [("2+3*4=14", True)]),
    ("20 - 5 - 3 = 12", [("20-5-3=12", True)]),
    ("7 = 3 + 4", [("7=3+4", True)]),
    ("8 / 4 / 2 = 1", [("8/4/2=1", True)]),
    # Unknowns, and signs that are no arithmetic.
    ("2x + 3 = 7", []),
    ("tax + 5 = 12", []),
    ("y - 3 = 5", []),
    ("5x = 10", []),
    ("5 + 3 = 8 + tax", []),
    ("5*(2+3 = 25", []),
    ("total = 8", []),
    ("It is 5 and 3. 3 is 3.", []),
    ("1 1/2 + 2 = 3", []),
    ("3 < 4 + 5", []),
    ("", []),
    ("no digits = here", []),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_equations(text: str, expected: list[tuple[str, bool]]) -> None:
    assert [(each.text, each.true) for each in equations(text)] == expected


def test_lists_ignore_units_and_spacing_and_keep_order() -> None:
    one = "He has 5 apples + 3 apples = 8 apples. Then 8 * 2 = 16."
    other = "First 5+3=8 in total; doubling, 8 x 2 = 16.00 dollars"
    assert equation_list(one) == equation_list(other) == ("5+3=8", "8*2=16")
    assert equation_list("8 * 2 = 16. 5 + 3 = 8.") == ("8*2=16", "5+3=8")


def test_truth_of_a_text() -> None:
    assert equation_is_true("5+3=8") is True
    assert equation_is_true("5+3=8, 2*2=5") is False
    assert equation_is_true("no equation") is None


NUMBERS = st.integers(0, 10**6)
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


@given(NUMBERS, st.sampled_from("+-*/"), NUMBERS, st.integers(-3, 3))
def test_truth_agrees_with_exact_arithmetic(a: int, sign: str, b: int, error: int) -> None:
    if sign == "/":
        a, b = a * max(b, 1), max(b, 1)  # an exact quotient
    result = OPERATORS[sign](Fraction(a), Fraction(b)) + error
    text = f"{a} {sign} {b} = {result}"
    assert [(each.text, each.true) for each in equations(text)] == [
        (text.replace(" ", ""), error == 0)
    ]


SIDES = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(
        lambda parts: f"({parts[0]}{parts[1]}{parts[2]})"
    ),
    max_leaves=5,
)


@given(SIDES, st.sampled_from("+-*"), SIDES)
def test_brackets_and_precedence_agree_with_python(a: str, sign: str, b: str) -> None:
    # The text is made here of digits, operators and brackets alone.
    value = eval(f"{a}{sign}{b}", {"__builtins__": {}})
    (found,) = equations(f"so {a} {sign} {b} = {value}.")
    assert found.true
    (wrong,) = equations(f"so {a} {sign} {b} = {value + 1}.")
    assert not wrong.true


@given(st.text(alphabet="0123456789+-*/=().,% \nx$abis<>", max_size=120))
def test_any_text_is_read_and_equations_read_back(text: str) -> None:
    for equation in equations(text):
        assert equation_list(equation.text) == (equation.text,)
