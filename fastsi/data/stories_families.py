"""The families of arithmetic stories: each function draws one problem from a random stream.

A family says what is asked and how a careful person computes it, step by step. Wording, names,
the order of independent steps and the order of operands are drawn too, so that one question has
several correct lines of reasoning. How much of the reasoning is written down is decided in
``fastsi.data.stories``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PEOPLE = (
    *(("Anna", "she"), ("Bella", "she"), ("Clara", "she"), ("Diana", "she"), ("Emma", "she")),
    *(("Grace", "she"), ("Lucy", "she"), ("Maria", "she"), ("Adam", "he"), ("Ben", "he")),
    *(("David", "he"), ("Felix", "he"), ("Henry", "he"), ("Jack", "he"), ("Oscar", "he")),
)
THINGS = (
    *("apples", "books", "cards", "cups", "coins", "eggs", "flowers", "hats", "keys", "lemons"),
    *("nuts", "pens", "plates", "shells", "stamps", "toys"),
)
BUNDLES = ("bags", "boxes", "baskets", "drawers")
CHOICES = "abcd"


@dataclass(frozen=True, slots=True)
class Step:
    """One sentence of careful work, such as "The pens cost 4*3=12 dollars."."""

    words: str
    """What is computed: the text before the equation."""
    expression: str
    """Left side of the equation: two integers and one of ``+ - * /``."""
    value: int
    """Right side of the equation."""
    unit: str
    """What the value counts."""

    def text(self) -> str:
        """The sentence."""
        return f"{self.words} {self.expression}={self.value} {self.unit}."


@dataclass(frozen=True, slots=True)
class Draft:
    """A problem before it is decided how carefully its solution is written."""

    question: str
    steps: tuple[Step, ...]
    expression: str
    """The whole computation in one expression; its value is the last step's."""
    answer: str
    """Integer, choice letter in parentheses, or yes/no."""
    remark: str = ""
    """Sentence between the computed value and the answer, where they differ."""


def _plus(rng: random.Random, left: int, right: int) -> str:
    return f"{left}+{right}" if rng.random() < 0.5 else f"{right}+{left}"


def _times(rng: random.Random, left: int, right: int) -> str:
    return f"{left}*{right}" if rng.random() < 0.5 else f"{right}*{left}"


def _people(rng: random.Random, count: int) -> list[tuple[str, str]]:
    return rng.sample(PEOPLE, count)


def _shuffled(rng: random.Random, *items: str) -> list[str]:
    return rng.sample(items, len(items))


def _two_costs(
    rng: random.Random, things: Sequence[str], counts: Sequence[int], prices: Sequence[int]
) -> tuple[list[Step], list[str], int]:
    """Costs of two purchases in either order, then their sum."""
    steps, terms = [], []
    for i in rng.sample((0, 1), 2):
        terms.append(_times(rng, counts[i], prices[i]))
        steps.append(Step(f"The {things[i]} cost", terms[-1], counts[i] * prices[i], "dollars"))
    total = steps[0].value + steps[1].value
    steps.append(Step("Together", f"{steps[0].value}+{steps[1].value}", total, "dollars"))
    return steps, terms, total


def shopping(rng: random.Random) -> Draft:
    """Two purchases, what they cost or what is left; or one purchase and a wage."""
    (name, he), things = _people(rng, 1)[0], rng.sample(THINGS, 2)
    a, b, p, q = (rng.randint(2, 9) for _ in range(4))
    if rng.random() < 0.5:
        steps, terms, total = _two_costs(rng, things, (a, b), (p, q))
        question = (
            f"{name} buys {a} {things[0]} at {p} dollars each and {b} {things[1]} at {q} dollars "
            f"each. How many dollars does {he} pay?"
        )
        return Draft(question, tuple(steps), "+".join(terms), str(total))
    cost, wage = a * p, rng.randint(3, 30)
    money = cost + rng.randint(2, 40)
    question = (
        f"{name} has {money} dollars. {he.capitalize()} buys {a} {things[0]} at {p} dollars each "
        f"and then earns {wage} dollars. How many dollars does {he} have now?"
    )
    product, left = _times(rng, a, p), money - cost
    steps = [
        Step(f"The {things[0]} cost", product, cost, "dollars"),
        Step(f"Then {he} has", f"{money}-{cost}", left, "dollars"),
        Step(f"Now {he} has", _plus(rng, left, wage), left + wage, "dollars"),
    ]
    return Draft(question, tuple(steps), f"{money}-{product}+{wage}", str(left + wage))


def giving(rng: random.Random) -> Draft:
    """A collection that grows and shrinks; the losses may be taken one by one or together."""
    (name, he), (other, _) = _people(rng, 2)
    thing = rng.choice(THINGS)
    start, found = rng.randint(8, 50), rng.randint(3, 30)
    given, lost = rng.randint(2, 15), rng.randint(2, 9)
    given = min(given, start + found - lost)
    question = (
        f"{name} has {start} {thing}. {he.capitalize()} finds {found} more, gives {given} to "
        f"{other} and loses {lost}. How many {thing} does {he} have now?"
    )
    gained = start + found
    left = gained - given - lost
    first = Step(f"With the new ones {he} has", _plus(rng, start, found), gained, thing)
    if rng.random() < 0.5:
        kept = gained - given
        rest = (
            Step(f"After the gift {he} has", f"{gained}-{given}", kept, thing),
            Step("After the loss", f"{kept}-{lost}", left, thing),
        )
    else:
        gone = given + lost
        rest = (
            Step(f"In all {he} parts with", _plus(rng, given, lost), gone, thing),
            Step("This leaves", f"{gained}-{gone}", left, thing),
        )
    return Draft(question, (first, *rest), f"{start}+{found}-{given}-{lost}", str(left))


def work(rng: random.Random) -> Draft:
    """Items made at a rate for some hours on some days, less the faulty ones."""
    (name, he), thing = _people(rng, 1)[0], rng.choice(THINGS)
    rate, hours, days = rng.randint(2, 9), rng.randint(2, 5), rng.randint(2, 4)
    made = rate * hours * days
    faulty = rng.randint(1, min(15, made - 1))
    question = (
        f"{name} packs {rate} {thing} an hour. {he.capitalize()} works {hours} hours a day for "
        f"{days} days, but {faulty} {thing} break. How many whole {thing} are packed?"
    )
    if rng.random() < 0.5:
        time = hours * days
        first = Step("The work takes", _times(rng, hours, days), time, "hours")
        second = Step(f"In all {he} packs", _times(rng, rate, time), made, thing)
    else:
        daily = rate * hours
        first = Step(f"In a day {he} packs", _times(rng, rate, hours), daily, thing)
        second = Step(f"In all {he} packs", _times(rng, daily, days), made, thing)
    last = Step("Without the broken ones", f"{made}-{faulty}", made - faulty, thing)
    factors = "*".join(_shuffled(rng, str(rate), str(hours), str(days)))
    return Draft(question, (first, second, last), f"{factors}-{faulty}", str(made - faulty))


def sharing(rng: random.Random) -> Draft:
    """Two collections put together and shared out evenly, then one share grows."""
    (name, _), (other, _) = _people(rng, 2)
    thing, bundle = rng.choice(THINGS), rng.choice(BUNDLES)
    share, bundles, extra = rng.randint(2, 12), rng.randint(2, 8), rng.randint(2, 20)
    total = share * bundles
    first = rng.randint(1, total - 1)
    second = total - first
    question = (
        f"{name} picks {first} {thing} and {other} picks {second}. They put them evenly into "
        f"{bundles} {bundle} and then add {extra} more to each. How many {thing} are in each?"
    )
    steps = (
        Step("Together they pick", _plus(rng, first, second), total, thing),
        Step("An even share is", f"{total}/{bundles}", share, thing),
        Step("Then each holds", _plus(rng, share, extra), share + extra, thing),
    )
    whole = f"({_plus(rng, first, second)})/{bundles}+{extra}"
    return Draft(question, steps, whole, str(share + extra))


def ages(rng: random.Random) -> Draft:
    """Ages given by comparison; the oldest age, in some years or together with another."""
    (name, _), (second, _), (third, _) = _people(rng, 3)
    age, older, times = rng.randint(2, 12), rng.randint(2, 12), rng.randint(2, 4)
    middle = age + older
    oldest = middle * times
    steps = [
        Step(f"{second} is", _plus(rng, age, older), middle, "years old"),
        Step(f"{third} is", _times(rng, middle, times), oldest, "years old"),
    ]
    whole = f"({_plus(rng, age, older)})*{times}"
    if rng.random() < 0.5:
        later = rng.randint(2, 20)
        ask = f"How old will {third} be in {later} years?"
        steps.append(
            Step(f"Then {third} is", _plus(rng, oldest, later), oldest + later, "years old")
        )
        whole = f"{whole}+{later}"
    else:
        ask = f"How many years are {name} and {third} together?"
        steps.append(Step("Together they are", _plus(rng, age, oldest), age + oldest, "years old"))
        whole = f"{whole}+{age}"
    question = (
        f"{name} is {age} years old. {second} is {older} years older than {name}. {third} is "
        f"{times} times as old as {second}. {ask}"
    )
    return Draft(question, tuple(steps), whole, str(steps[-1].value))


def choice(rng: random.Random) -> Draft:
    """Pages read at a rate and a remainder; the answer is the letter of one of four choices."""
    name, he = _people(rng, 1)[0]
    rate, days, extra = rng.randint(3, 12), rng.randint(2, 7), rng.randint(2, 20)
    read = rate * days
    total = read + extra
    near = {total + offset for offset in range(-12, 13) if offset and total + offset > 0}
    values = [total, *rng.sample(sorted(near), 3)]
    rng.shuffle(values)
    letter = CHOICES[values.index(total)]
    listed = " ".join(f"({mark}) {value}" for mark, value in zip(CHOICES, values, strict=True))
    question = (
        f"{name} reads {rate} pages a day for {days} days and then {extra} pages more. How many "
        f"pages does {he} read? {listed}"
    )
    product = _times(rng, rate, days)
    steps = (
        Step(f"In {days} days {he} reads", product, read, "pages"),
        Step("In all", _plus(rng, read, extra), total, "pages"),
    )
    return Draft(
        question, steps, f"{product}+{extra}", f"({letter})", f"This is choice ({letter})."
    )


def enough(rng: random.Random) -> Draft:
    """Whether there is room for groups of people and some more: yes or no, equally often."""
    groups, size, extra = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 20)
    grouped = groups * size
    people = grouped + extra
    fits = rng.random() < 0.5
    seats = people + rng.randint(0, 9) if fits else people - rng.randint(1, min(10, people - 1))
    vehicle = rng.choice(("bus", "train", "boat", "room", "hall"))
    question = (
        f"A {vehicle} has {seats} seats. {groups} groups of {size} people and {extra} more people "
        f"want to sit. Does everyone get a seat?"
    )
    product = _times(rng, groups, size)
    steps = (
        Step("The groups are", product, grouped, "people"),
        Step("In all", _plus(rng, grouped, extra), people, "people"),
    )
    remark = f"{people} is more than {seats}." if not fits else f"{people} is at most {seats}."
    return Draft(question, steps, f"{product}+{extra}", "yes" if fits else "no", remark)


FAMILIES: dict[str, tuple[Callable[[random.Random], Draft], int]] = {
    "shopping": (shopping, 3),
    "giving": (giving, 3),
    "work": (work, 3),
    "sharing": (sharing, 3),
    "ages": (ages, 3),
    "choice": (choice, 2),
    "enough": (enough, 2),
}
"""Family name to its function and its weight in the mixture."""
