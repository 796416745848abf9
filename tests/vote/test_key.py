"""Which answers are one answer: a table of pairs to merge and pairs to keep apart."""

from __future__ import annotations

import pytest

from fastsi.vote import key_of_answer, render

KEYS = [
    ("1,234", "num:1234"),
    ("(B)", "choice:b"),
    ("\\frac12", "num:1/2"),
    ("-0", "num:0"),
    ("007", "num:7"),
    ("1e-2", "num:1/100"),
    ("25%", "num:25"),
    ("True", "bool:yes"),
    ("false", "bool:no"),
    ("3:05 pm", "time:15:05"),
    ("12:00 am", "time:0:00"),
    ("4:6", "ratio:2:3"),
    ("0.5:1:2", "ratio:1:2:4"),
    ("5-7", "range:5 to 7"),
    ("-5 to -3", "range:-5 to -3"),
    ("(1, 1/2)", "tuple:(1, 1/2)"),
    ("[0,1)", "tuple:[0, 1)"),
    ("(-\\infty, 5]", "tuple:(-\\infty, 5]"),
    ("{3, 1, 2}", "set:{1, 2, 3}"),
    ("x=1, y=2", "named:x=1, y=2"),
    ("May 6, 2020", "date:2020-05-06"),
    ("\\begin{bmatrix}1&2\\end{bmatrix}", "matrix:\\begin{pmatrix} 1 & 2 \\end{pmatrix}"),
    ("Paris", "text:paris"),
    ("2\\pi r", "text:2\\pi r"),
    ("1e999999999", "text:1e999999999"),
    ("10^999999999", "text:10^999999999"),
    ("5/0", "text:5/0"),
]

MERGE = [
    # separators, signs, leading and trailing zeros
    ("x = 12,345", "12345"), ("x=1,200 m", "1200"), ("x = 1, 2", "1, 2"),
    ("1,234", "1234"), ("1{,}234", "1234"), ("1\\,234", "1234"), ("1\u2009234", "1234"),
    ("1\u00a0234\u00a0567", "1234567"), ("1 234 567", "1,234,567"), ("1'234", "1234"),
    ("12,34,567", "1234567"), ("1.234.567", "1234567"), ("1.234,50", "1234.5"), ("1_000", "1000"),
    ("+5", "5"), ("- 5", "-5"), ("\u22125", "-5"), ("\u20135", "-5"), ("\ufe635", "-5"),
    ("\uff0d5", "-5"), ("negative 5", "-5"), ("minus 5", "-5"), ("-0", "0"), ("18.00", "18"),
    (".5", "0.5"), ("007", "7"), ("18.", "18"), ("\uff11\uff18", "18"), ("\u0967\u096e", "18"),
    # fractions and decimals
    ("3/4", "0.75"), ("\\frac{3}{4}", "3/4"), ("\\dfrac34", "3/4"), ("\\tfrac{3}4", "6/8"),
    ("-\\frac{1}{2}", "-0.5"), ("\\frac{-1}{2}", "-1/2"), ("1 / 2", "0.5"), ("\u00bd", "1/2"),
    ("1\u00bd", "1.5"), ("1 1/2", "3/2"), ("1\\frac{1}{2}", "1.5"), ("-1 1/2", "-1.5"),
    ("1 and 1/2", "1.5"), ("1.5/2", "3/4"), ("\\frac{1,000}{3}", "1000/3"), ("3\u20444", "3/4"),
    # percent, currency, powers of ten, scales
    ("25%", "25"), ("25\\%", "25 percent"), ("25 %", "25"), ("$18", "18"), ("\\$18", "18"),
    ("$18.00", "18"), ("-$5", "-5"), ("$-5", "-5"), ("\u20ac18", "18"), ("18 \u20ac", "18"),
    ("\u00a318", "18"), ("US$18", "18"), ("\\$80{,}000", "80000"), ("USD 18", "18"),
    ("1.5e3", "1500"), ("1.5E+3", "1500"), ("1.5 \\times 10^{3}", "1500"), ("1.5*10^3", "1500"),
    ("1.5 \u00d7 10\u00b3", "1500"), ("1.5 x 10^3", "1500"), ("2 \\cdot 10^{-3}", "0.002"),
    ("10^3", "1000"), ("10**3", "1000"), ("5 million", "5,000,000"), ("1.2 billion", "1200000000"),
    # units and words
    ("18 apples", "18"), ("18 dollars", "$18"), ("18\\text{ cm}", "18"), ("18\\,\\text{cm}", "18"),
    ("12 cm^2", "12"), ("12\\text{ cm}^2", "12"), ("12 m\u00b2", "12"), ("60 km/h", "60"),
    ("60\\text{ km/h}", "60"), ("90^\\circ", "90"), ("90\u00b0", "90 degrees"), ("3 m", "3"),
    ("20\u00b0C", "20"), ("5\\text{t}", "5"), ("5 miles per hour", "5"), ("18-inch", "18"),
    ("18 in total", "18"), ("18 in 2020", "18"), ("18 of the apples", "18"), ("18, because", "18"),
    ("18 (since 9 * 2)", "18"), ("18 eggs and toast", "18"), ("18 a day", "18"),
    ("about 18", "18"), ("Tom has 18 apples", "18"), ("exactly 18", "18"), ("5 more than Bob", "5"),
    # dressing
    ("**18**", "18"), ("$18$", "18"), ("$$18$$", "18"), ("\\(18\\)", "18"), ("\\[18\\]", "18"),
    ("`18`", "18"), ('"18"', "18"), ("\\mathbf{18}", "18"), ("\\boxed{18}", "18"), ("[18]", "18"),
    ("(18)", "18"), ("{18}", "18"), ("18\\!", "18"), ("\\text{eighteen}", "18"),
    # equations
    ("x=5", "5"), ("x = 5", "y=5"), ("f(x) = 2x", "2x"), ("2 + 3 = 5", "5"), ("Total = 5", "5"),
    ("5 = x", "5"), ("3 apples + 2 apples = 5 apples", "5"), ("5 = 2 + 3", "5"),
    ("x \\approx 5", "5"), ("x \\in [0, 1)", "[0,1)"),
    # number words
    ("eighteen", "18"), ("Twenty-one", "21"), ("twenty one", "21"), ("one hundred and five", "105"),
    ("a hundred", "100"), ("two thousand three hundred", "2300"), ("nineteen hundred", "1900"),
    ("three million", "3000000"), ("half", "1/2"), ("one half", "0.5"), ("two thirds", "2/3"),
    ("two-thirds of it", "2/3"), ("three and a half", "3.5"), ("minus six", "-6"), ("zero", "0"),
    ("three quarters", "0.75"), ("five dollars", "5"), ("two and three quarters", "2.75"),
    # choices, booleans
    ("(B)", "B"), ("B)", "B."), ("(b)", "B"), ("\\text{(B)}", "(B)"), ("B. 18 apples", "(B)"),
    ("(B) 18", "B"), ("12 (B)", "B"), ("Option B", "B"), ("\\textbf{(B)}", "B"), ("b", "B"),
    ("B is correct", "B"), ("(B).", "B"), ("the answer is (B)", "B"), ("choice (C)", "C"),
    ("yes", "Yes."), ("true", "True"), ("Yes, he can", "yes"), ("**No**", "no"), ("No.", "NO"),
    ("False, since 2 < 3", "false"), ("\\text{Yes}", "yes"),
    # tuples, sets, lists, intervals, matrices
    ("(1,2)", "(1, 2)"), ("\\left(1,2\\right)", "(1,2)"), ("(0.5, 1)", "(\\frac12, 1)"),
    ("{1,2}", "\\{2, 1\\}"), ("1, 2", "2, 1"), ("1 and 2", "1, 2"), ("1 or 2", "1 and 2"),
    ("1, 2, and 3", "3, 2, 1"), ("x = 1 or x = 2", "1, 2"), ("\\pm 2", "-2, 2"),
    ("\u00b12", "2, -2"),
    ("1 \\pm 2", "-1, 3"), ("[0, 1)", "\\left[0,1\\right)"), ("(1,234)", "(1, 234)"),
    ("x=1, y=2", "y = 2 and x = 1"), ("(A) and (C)", "C, A"), ("5 cm and 6 cm", "5, 6"),
    ("\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}",
     "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4.0 \\end{pmatrix}"),
    ("(1,234, 5)", "(1234, 5)"), ("(1, (2, 3))", "(1,(2,3))"),
    # ratios, times, dates, ranges
    ("3:4", "6:8"), ("3 : 4", "3:4"), ("3:30 pm", "15:30"), ("3 p.m.", "15:00"), ("3pm", "3:00 PM"),
    ("05/06/2020", "2020-05-06"), ("May 6, 2020", "6 May 2020"), ("5-7", "5 to 7"),
    ("5\u20137", "between 5 and 7"), ("from 5 to 7", "5-7"),
    # text
    ("Paris", "paris."), ("the Paris", "Paris"), ("2\\sqrt{3}", "2\\sqrt3"),
    ("2 \\sqrt{3}", "2\\sqrt{3}"),
    ("x^{2} + 1", "x^2+1"), ("\\frac{\\pi}{2}", "\\dfrac{\\pi}{2}"), ("Blue  Whale", "blue whale"),
]  # fmt: skip

APART = [
    ("25%", "0.25"), ("25%", "1/4"), ("3t", "3"), ("2m", "2"), ("4c", "4"), ("5kg", "5"),
    ("3x", "3"),
    ("2 pi", "2"), ("2\\pi", "2"), ("5!", "5"), ("x^2", "x2"), ("5\u00b2", "52"), ("5^2", "52"),
    ("2**3", "23"), ("1\u00bd", "11/2"), ("1\\frac{3}{4}", "13/4"), ("1.234", "1234"),
    ("2 hours and 30 minutes", "2"), ("2 hours 30 minutes", "2"), ("5 apples and 3 pears", "5"),
    ("5 apples and 3 pears", "3 apples and 5 pears"), ("5 or 6", "5"), ("5 or more", "5"),
    ("at least 5", "5"), ("more than 5", "5"), ("1 in 5", "1"), ("3 out of 4", "3"),
    ("5 by 7", "5"),
    ("not 5", "5"), ("5 + x", "5"), ("5 times 4", "5"), ("2 dozen", "2"), ("18 hundredths", "18"),
    ("5 squared", "5"), ("5 (mod 7)", "5"), ("two and a half", "2"), ("one two", "1"),
    ("5 feet 6 inches", "5"), ("x^2 + y^2 = 1", "1"), ("2x = 10", "10"), ("x > 5", "5"),
    ("x=1, y=2", "x=2, y=1"), ("x=1, y=2", "1, 2"), ("[1,2)", "(1,2)"), ("(1,2)", "(2,1)"),
    ("1, 1/2", "1 1/2"),
    ("(1,2)", "{1,2}"), ("{1,2}", "{1,2,3}"), ("1, 1", "1"), ("(1, 2)", "12"), ("1, 2", "12"),
    ("3:30", "1:10"), ("3:30 pm", "3:30 am"), ("3:4", "4:3"), ("3:4", "3/4"), ("5-7", "-2"),
    ("7-5", "5-7"), ("5-7", "57"), ("05/06/2020", "5/12120"), ("05/06/2020", "06/05/2020"),
    ("(B)", "(C)"), ("(B)", "b + 1"), ("B", "8"), ("(A) and (C)", "A"), ("(a, b)", "a"), ("n", "N"),
    ("yes", "no"), ("no solution", "no"), ("a dog", "A"), ("yes", "1"), ("Apollo 11", "11"),
    ("1/3", "0.333"), ("0.333...", "0.333"), ("1e400", "1e401"), ("1/7", "2/7"), ("-5", "5"),
    ("9007199254740993", "9007199254740992"), ("0.1", "0.1000000000000000055"), ("1/0", "0"),
    ("\\sqrt{2}", "2"), ("\\sqrt{2}", "\\sqrt{3}"), ("\\frac{1}{2x}", "\\frac{1}{2}x"),
    ("\\begin{pmatrix}1&2\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"),
    ("x", "y"), ("cat", "dog"), ("1e999999999", "1e999999998"), ("1,23", "123"), ("1,2,3", "123"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key"), KEYS)
def test_key(text: str, key: str) -> None:
    assert key_of_answer(text) == key


def test_no_answer() -> None:
    for text in ("", " ", " .,$ ", "**", "\\boxed{}", "\\text{}", "?", "\u200b"):
        assert key_of_answer(text) is None, text


@pytest.mark.parametrize(("one", "other"), MERGE)
def test_merge(one: str, other: str) -> None:
    assert key_of_answer(one) is not None
    assert key_of_answer(one) == key_of_answer(other)


@pytest.mark.parametrize(("one", "other"), APART)
def test_keep_apart(one: str, other: str) -> None:
    assert key_of_answer(one) is not None
    assert key_of_answer(one) != key_of_answer(other)


def test_every_key_of_the_tables_reads_back_as_itself() -> None:
    for text in {text for pair in KEYS + MERGE + APART for text in pair}:
        key = key_of_answer(text)
        if key is not None:
            assert key_of_answer(render(key)) == key, text


def test_integers_of_any_size_are_exact() -> None:
    digits = "1234567890" * 2000
    assert key_of_answer(digits) == f"num:{digits}"
    assert key_of_answer("-000" + digits) == f"num:-{digits}"
    grouped = "1" + ",234" * 3000
    assert key_of_answer(grouped) == "num:" + grouped.replace(",", "")
    for count in (999, 1001, 3999, 4001, 4090, 4200):
        assert key_of_answer("-" + "7" * count) == "num:-" + "7" * count
        assert key_of_answer("$" + "7" * count) == "num:" + "7" * count
    assert key_of_answer("0" * 9000) == key_of_answer("0") == "num:0"


def test_numbers_beyond_the_limit_stay_text_and_cost_nothing() -> None:
    for text in ("1e999999999", "1e-999999999", "10^99999999", "9e5000", "1e-5000"):
        key = key_of_answer(text)
        assert key is not None
        assert key.startswith("text:")
        assert len(key) < 40
    assert key_of_answer("1e3000") == "num:1" + "0" * 3000
    assert key_of_answer("0e999999999") == "text:0e999999999"
