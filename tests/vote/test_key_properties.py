"""Properties of keys over generated answers: exactness, one spelling per key, no crash."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from fastsi.vote import answer_key, key_of_answer, kind_of, render

KINDS = {
    "num", "choice", "bool", "time", "date", "ratio", "range", "tuple", "set", "named", "matrix",
    "text",
}  # fmt: skip

# Pieces that mean something to the reader, so that random sequences reach every branch.
PIECES = st.sampled_from(
    [
        *"0123456789", *"abxnABJ", *".,;:!?'\"", *"()[]{}", *"+-*/=^_<>|~$%&#", " ", "  ", "\n",
        "\\", "\\frac", "\\text{", "\\boxed{", "\\pm ", "\\left(", "\\right]", "\\sqrt", "\\\\",
        "\\begin{pmatrix}", "\\end{pmatrix}", "\\in ", "\\times ", "10^", "1,000", "1/2", "3.50",
        "1e5", "e9999999999", "**", "the ", "The answer is ", "Answer: ", "####", "<answer>",
        "</answer>", "</think>", "Question:", "yes", "no", "true", "one ", "two ", "half", "and ",
        "or ", "to ", "million", "dollars", "cm^2", "pm", " am", "percent", "x=", "minus ",
        "between ", "May ", "2020", "-", "\u2212", "\u2013", "\u00bd", "\u00b2", "\u00b0", "\u00d7",
        "\uff11", "\u0661", "\u2009", "\u00a0", "\u7b54\u6848\u662f", "\u20ac", "\u00e9", "\u0301",
        "\u0130", "\u00df", "\x01", "\x00", "\u3002", "\ud800",
    ]
)  # fmt: skip
ANSWERS = st.lists(PIECES, max_size=14).map("".join) | st.text(max_size=24)


def check_key(key: str | None) -> None:
    """A key has a known kind, and the answer text written from it has that same key."""
    if key is not None:
        assert kind_of(key) in KINDS
        assert key_of_answer(render(key)) == key


@given(ANSWERS)
@example("\u0130")  # lower case of one character is two
@example("{{18}}")
@example("((((((((5))))))))")
@example("20:200")  # 1:10 would be a time
@example(". . . 5 . . .")
@example("`**`5`**`")
@example("the the the 5")
@example("\\text{\\text{\\text{\\text{5}}}}")
def test_keys_of_any_answer_read_back(text: str) -> None:
    check_key(key_of_answer(text))


@given(ANSWERS)
def test_keys_of_any_response_read_back(text: str) -> None:
    check_key(answer_key(text))
    check_key(answer_key(text, last_number=True))
    check_key(answer_key("The answer is " + text))
    check_key(answer_key("\\boxed{" + text + "}"))


RATIONALS = st.fractions(max_denominator=10**6) | st.fractions(
    min_value=-1000, max_value=1000, max_denominator=16
)


DRESSINGS = [
    *("{}", "{}.", "${}$", "**{}**", "\\({}\\)", "\\boxed{{{}}}", "({})", "x = {}", "about {}"),
    *("{}%", "{}\\%", "\\${}", "{} apples", "{}\\text{{ cm}}", "{} m^2", "{} in total"),
]


def grouped(digits: str, mark: str) -> str:
    """Thousands separated by ``mark``."""
    return f"{int(digits):,}".replace(",", mark)


@st.composite
def spellings(draw: st.DrawFn, value: Fraction) -> str:
    """One of the ways in which people and models write a rational number."""
    sign = draw(st.sampled_from(["-", "\u2212", "- "])) if value < 0 else ""
    top, bottom = abs(value.numerator), value.denominator
    forms = [f"{top}/{bottom}", rf"\frac{{{top}}}{{{bottom}}}", rf"\dfrac{{{top}}}{{{bottom}}}"]
    scale = draw(st.integers(2, 9))
    forms.append(f"{top * scale} / {bottom * scale}")
    if top > bottom > 1:
        whole, rest = divmod(top, bottom)
        forms += [f"{whole} {rest}/{bottom}", f"{whole}\\frac{{{rest}}}{{{bottom}}}"]
    decimals = next((n for n in range(13) if (top * 10**n) % bottom == 0), None)
    if decimals is not None:
        scaled = str(top * 10**decimals // bottom).rjust(decimals + 1, "0")
        whole_digits, part = scaled[: len(scaled) - decimals], scaled[len(scaled) - decimals :]
        mark = draw(st.sampled_from(["", ",", "{,}", "\\,", "\u2009", " ", "'"]))
        written = grouped(whole_digits, mark) + ("." + part if part else "")
        zeros = draw(st.sampled_from(["", "0", "00"])) if part else ""
        forms += [written + zeros] * 3
        forms += [f"{scaled}e-{decimals}", f"{scaled} \\times 10^{{-{decimals}}}"]
    text = sign + draw(st.sampled_from(forms))
    # In round brackets a comma separates: "(1,234)" is the pair (1, 234), see test_key.py.
    dressings = [dressing for dressing in DRESSINGS if dressing != "({})" or "," not in text]
    return draw(st.sampled_from(dressings)).format(text)


@given(st.data(), RATIONALS)
def test_every_spelling_of_a_number_is_its_exact_value(
    data: st.DataObject, value: Fraction
) -> None:
    text = data.draw(spellings(value))
    assert key_of_answer(text) == f"num:{value}"


@given(st.data(), RATIONALS, RATIONALS)
def test_numbers_merge_exactly_when_they_are_equal(
    data: st.DataObject, one: Fraction, other: Fraction
) -> None:
    first, second = data.draw(spellings(one)), data.draw(spellings(other))
    assert (key_of_answer(first) == key_of_answer(second)) == (one == other)


MEMBERS = st.one_of(
    RATIONALS.map(str), st.sampled_from(["x", "y+1", "\\pi", "(1, 2)", "[0, 1)", "apple"])
)


@given(st.lists(MEMBERS, min_size=2, max_size=5), st.sampled_from(["()", "[]", "[)", "(]"]))
def test_tuples_keep_order_and_brackets(members: list[str], brackets: str) -> None:
    key = key_of_answer(brackets[0] + ", ".join(members) + brackets[1])
    assert key is not None
    assert kind_of(key) == "tuple"
    check_key(key)
    tight = f"\\left{brackets[0]}" + ",\\; ".join(members) + f"\\right{brackets[1]}"
    assert key_of_answer(tight) == key
    if members != members[::-1]:
        assert key_of_answer(brackets[0] + ", ".join(members[::-1]) + brackets[1]) != key


@given(st.lists(RATIONALS, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_sets_have_no_order(members: list[Fraction], random) -> None:
    key = key_of_answer("\\{" + ", ".join(map(str, members)) + "\\}")
    assert key is not None
    assert kind_of(key) == "set"
    check_key(key)
    random.shuffle(members)
    assert key_of_answer(", ".join(map(str, members))) == key
    whole = [int(member) for member in members]  # "1 and 1/2" is one number
    assert key_of_answer(" and ".join(map(str, whole))) == key_of_answer(str(whole)[1:-1])


SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety"


def in_words(value: int) -> str:
    """English for 0 <= value < 10**9, written independently of the reader."""
    small, tens = SMALL.split(), TENS.split()
    for scale, name in ((10**6, "million"), (10**3, "thousand"), (100, "hundred")):
        if value >= scale:
            rest = f" and {in_words(value % scale)}" if value % scale else ""
            return f"{in_words(value // scale)} {name}{rest}"
    if value < 20:
        return small[value]
    return tens[value // 10] + (f"-{small[value % 10]}" if value % 10 else "")


@given(st.integers(0, 10**9 - 1))
def test_number_words(value: int) -> None:
    text = in_words(value)
    assert key_of_answer(text) == f"num:{value}"
    assert key_of_answer(text.replace(" and ", " ").replace("-", " ")) == f"num:{value}"
    assert key_of_answer(f"{text.capitalize()} apples.") == f"num:{value}"
