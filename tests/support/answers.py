"""Random answers in every form that has a key, nested and mutated, and some that are none."""

from __future__ import annotations

import random

NUMBERS = (
    "0", "7", "18", "007", "1,234", "1 234", "1'234", "1\u00a0234", "1\u202f234,5", "12,34,567",
    "1.234.567", "1.234,56", "3.50", ".5", "5.", "0.8333", "1e3", "2.5E-4", "1.5 \\times 10^{3}",
    "1.5 x 10^3", "1.5\u00d710\u00b3", "10^6", "10^{-2}", "3/4", "-3/4", "3/-4", "6 / 8", "1 1/2",
    "1 and 1/2", "\\frac{3}{4}", "\\frac34", "\\dfrac{-3}{4}", "1\\frac{1}{2}", "\u00bd",
    "2\u00be", "1{,}234", "1\\,234", "1\\!,\\!234", "-7", "\u22127", "\u20137", "+7", "- 7",
    "minus 7", "negative five", "25%", "25\\%", "25 percent", "$18", "\\$18.00", "18 dollars",
    "USD 18", "18\u20ac", "\u00a35", "18 cents", "eighteen", "twenty-one", "one hundred and five",
    "two thirds", "half", "three and a half", "2 million", "2.5 billion", "a dozen", "5 dozen",
    "2 hundred", "\u0661\u0668", "\uff11\uff18", "12345678901234567890", "9" * 45, "1/3", "0/5",
    "5/0", "1e400", "point five", "two point five", "1,23", "12,345,67", "1_000", "3 1/0",
    "3 fourths", "-0", "1.0",
)  # fmt: skip
UNITS = (
    "", "", "", " apples", " cm", " cm^2", " m/s", "km/h", " km / h", "\\text{ cm}",
    "\\mathrm{m}^2", " square feet", "^\\circ", "\u00b0", "\u00b0C", " degrees", "t", " x", " pi",
    "\\pi", "-inch", " hours and 30 minutes", ", because we add", " (since 3 < 4)", " in 2020",
    " or 6", "!", ".", " m", " of the cake", " each", " squared", " years old.", " per day",
    " more than 5", "cm", "kg",
)  # fmt: skip
OTHERS = (
    "(B)", "B", "b)", "B.", "**B**", "\\text{(B)}", "B: 18", "option b", "Option (C)",
    "the answer is D", "12 (B)", "A and C", "(A) or (B)", "A. Paris", "K", "e", "yes", "No.",
    "TRUE", "false, because", "yes (it is)", "no 5", "3:30 pm", "15:30", "3:30:15", "3 p.m.",
    "noon", "12 midnight", "25:30", "2:4", "1:2:3", "2020-05-06", "05/06/2020", "13/06/2020",
    "May 6, 2020", "6th of May", "Feb 30", "5-7", "5\u20137", "5 to 7 days", "between 5 and 7",
    "from 5 cm to 7 cm", "7-5", "5..7", "\\pm 5", "\u00b15", "1 \\pm 2", "x = 5", "x=5",
    "x = 5 or x = -5", "x=1, y=2", "y = 2 and x = 1", "f(x) = 3", "(x, y) = (1, 2)", "2 + 3 = 5",
    "5 = x", "x + 1", "y = 2x + 3", "x \\in [0, 1)", "2\\sqrt{3}", "2\u221a3", "2 \\sqrt3",
    "sqrt(12)", "x^2 + 1", "x^{2}+1", "\\frac{\\pi}{2}", "\\pi/2", "\\infty", "-\\infty",
    "infinity", "\\emptyset", "{}", "\u2205", "Paris", "the Paris", "a cat", "\u00c9cole",
    "\u039b", "Mr. Smith", "hello world!", "n!", "5!",
    "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "\\begin{bmatrix}1\\\\2\\end{bmatrix}",
    "\\begin{array}{cc}1&2\\end{array}", "[0,1) \\cup (2,3]", "(-\\infty, 3) U (5, \\infty)",
    "Tom has 5 apples", "there are exactly 18 of them", "it is not 5", "about 18", "approx. 18",
    "the answer is 18", "the point (1, 2)", "", " ", ".", "...", "-", "$", "<=5", "x \\le 5",
    "x >= 5", "\\text{Monday}", "1 < x < 2", "5 mod 7", "3x", "2 * x", "2 x", "\\%",
)  # fmt: skip
WRAPS = (
    "{}", "{}", "{}", "{}", "${}$", "\\({}\\)", "**{}**", "`{}`", "{}.", " {} ", "\"{}\"",
    "\\boxed{{{}}}", "\\text{{{}}}", "({})", "[{}]", "\\{{{}\\}}", "\\left({}\\right)", "*{}*",
    "\\mathbf{{{}}}", "{}?", "= {}", "approximately {}", "{} \\text{{ units}}",
    "\\displaystyle {}", "~{}", "x = {}", "-{}", "\\frac{{{}}}{{2}}", "({}", "{})", "\\sqrt{{{}}}",
    "{}^2", "{}\\\\",
)  # fmt: skip
JOINTS = (
    ", ", ",", " and ", " or ", "; ", " & ", ":", " : ", "-", " - ", "/", " = ", " + ", "\\cup ",
    " to ",
)  # fmt: skip
ALPHABET = (
    "0189abwWxXPpeE .,:;!?$#*_(){}"
    "[]<>/\\\x0a\x09\"'`=+-%^&~|\u00a0\u2212\u00bd\u00b2\u221a\u03c0\u00e9\u1ecd\x01\x1c"
)


def answer(rng: random.Random) -> str:
    """One answer: a form, perhaps several joined and wrapped; a third of them mutated."""
    text = _form(rng)
    while rng.random() < 0.25:
        text += rng.choice(JOINTS) + _form(rng)
    while rng.random() < 0.45:
        text = rng.choice(WRAPS).format(text)
    return _mutated(rng, text) if rng.random() < 0.35 else text


def _form(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(NUMBERS) + rng.choice(UNITS)
    return rng.choice(OTHERS)


def _mutated(rng: random.Random, text: str) -> str:
    chars = list(text)
    for _ in range(rng.randint(1, 3)):
        at = rng.randint(0, len(chars))
        kind = rng.random()
        if kind < 0.4:
            chars.insert(at, rng.choice(ALPHABET))
        elif kind < 0.7 and chars:
            del chars[min(at, len(chars) - 1)]
        elif kind < 0.9 and chars:
            chars[min(at, len(chars) - 1)] = rng.choice(ALPHABET)
        else:
            chars[at:at] = chars[: rng.randint(0, len(chars))]
    return "".join(chars)
