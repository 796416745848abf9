"""Random responses that look like a model's, and mutated ones that look like nothing."""

from __future__ import annotations

import random

from fastsi.vote.marks import WITH_COLON, WITHOUT_COLON

SPANS = (
    "in dollars", "what we wanted", "positive", "The Hague",
    "18", "-7", "$1,234.50", "3/4", "\\frac{1}{2}", "\\dfrac12", "25\\%", "(B)", "B. 18", "(c)",
    "yes", "No", "True", "x = 5", "(1, 2)", "[0, 1)", "{2, 1}", "1 and 2", "3:30 pm", "2:3",
    "5 apples", "18 km/h", "12 cm^2", "eighteen", "twenty-one", "2\\sqrt{3}", "Paris", "Mr. Smith",
    "not 5", "unknown", "an integer", "1.5e3", "10^6", "\u22125", "\u00bd", "3t", "18\u5143",
    "\u0661\u0668", "\\text{(B)}", "$x^2 + 1$", "\\(\\pi\\)", "", " ", "18.", "3 + 4 = 7", "5 or 6",
    "May 6, 2020", "1,000,000", "007", ".5", "**18**", "`18`",
    "a very long prose answer that goes on and on and has more than ten words", "\u0628",
    "18\u3067\u3059",
)  # fmt: skip
BEFORE = (
    "The answer for Problem 3: ", "Answer to Question: ", "The answer that we want is probably ",
    "Answer: The correct option is ", "the Q: ",
    "The answer is ", "the final answer is: ", "Answer: ", "**Answer:** ", "#### ", "\n#### ",
    "\\boxed{", "$\\boxed{", "\\fbox {", "\\boxed ", "<answer>", "<ANSWER> ", "Final Answer\n\n",
    "**Final Answer**\n", "The correct option is ", "the best choice: ",
    "So the answer to this, in dollars, is ", "answer, therefore, is ", "ANSWER = ",
    "The answer must be option ", "answers are ", "The answer is\n\\[", "The answer is $$",
    "answer for part 2.5 is ", "answer (in cm): ", "", "</think>", "<think>",
    "#### The final answer is ", "answer -> ", "answer => ", "The answer is, therefore, ",
    "answer is still ", "answer is thus option ", "The answer turns out to be ",
)  # fmt: skip
AFTER = (
    " is the answer.", " is my final answer", " is the correct option", " is correct.", " Is right",
    ".", "}", "}$.", "</answer>", "\n", ". Let me double-check: 3+4=7.", " because 3 < 4.", "!",
    "?", "\\]", "$$", "<|im_end|>", "</s>", "\n\nQuestion: how many 7?\nAnswer: 7",
    " Q: next? A: 5", "\n\n**Problem 2:** more", "##", " ### Next", ".I", ".The", "\u3002", "\r\n",
    "", " )", "...", "<\uff5cend", ".\u00a0Next", " apples left. ", "\n####\n", ":", "**",
)  # fmt: skip
FILLER = (
    "So ", "option ", "Therefore, ", "plan ", "Hence\u00a0",
    "Each of the 3 boys has 4 marbles, so 3 * 4 = 12 marbles.\n", "First, we add 2.5 and 7. ",
    "So it costs $5 or more; we know that. ", "Wait, no. ", "I am not sure about this. ", "\n\n",
    "Let x be the width. Then $x^2 = 9$ and x = 3. ", "(A) 5 (B) 6 (C) 7 ", "caf\u00e9 \u2026 ",
    "## Step 1: add\n", "The question: how many? ", "R\u00e9ponse\u00a0: ", "{", "}", "$", "\\",
    "\n", "answer", "The right choice ", "One day Tom ", "\U0001f600", "\u7b54", "<", "####",
    "\\boxed",
)  # fmt: skip
ALPHABET = (
    "\0\x1c0189abwWxX .,:;!?$#*_(){}[]<>/\\\n\t\"'`=+-%\u00a0\u3000\uff1a\u2212\u00e9\u7b54\u5143"
)


def response(rng: random.Random) -> str:
    """A response of one to six parts; a third of them mutated."""
    parts = []
    for _ in range(rng.randint(1, 6)):
        if rng.random() < 0.5:
            parts.append(rng.choice(FILLER))
        else:
            before = rng.choice(BEFORE)
            if rng.random() < 0.15:
                before = rng.choice((rng.choice(WITH_COLON) + ": ", rng.choice(WITHOUT_COLON)))
            parts += [before, rng.choice(SPANS), rng.choice(AFTER)]
    text = "".join(parts)
    return mutated(text, rng) if rng.random() < 0.34 else text


def mutated(text: str, rng: random.Random) -> str:
    """``text`` after one to four random edits."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(text))
        end = min(len(text), at + rng.randint(0, 8))
        text = rng.choice(
            (
                text[:at] + text[end:],
                text[:at] + rng.choice(ALPHABET) + text[at:],
                text[:at] + text[at:end] * 2 + text[end:],
                text[:at] + text[at:end].swapcase() + text[end:],
                text[:at] + rng.choice(ALPHABET) * rng.randint(2, 12) + text[at:],
            )
        )
    return text
