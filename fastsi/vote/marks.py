"""Words that announce an answer or deny one, in several languages."""

from __future__ import annotations

import re
import string

BLANKS = " \t\r\u00a0\u202f\u3000"
"""Blanks within a line: ASCII, no-break, and that of Chinese and Japanese."""
MAX_MARKS = 64
"""How many marks of a sort, from the last one back, are looked at: bounds the work on repetitive
text."""
SPACES = BLANKS + "\n\v\f"
"""Blanks and line ends."""

_TO_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

# An announcement that begins with one of these words announces nothing ...
_DENIALS = (
    "not", "unknown", "unclear", "unsure", "undetermined", "uncertain", "n/a", "none given", "let",
    "lets", "first", "we", "i think", "i do not", "i don't", "i don\u2019t", "i am not", "i'm not",
    "i\u2019m not", "to find", "to solve", "to get", "to be", "step", "found", "obtained",
    "given by", "computed", "calculated", "determined", "derived", "based on", "as follows",
    "below", "above", "cannot", "impossible", "of the form", "in the form", "in terms", "yet",
    "either not", "an integer", "a whole number", "a positive integer", "a prime number",
)  # fmt: skip
# ... nor does one that is nothing but one of these.
_REMARKS = (
    "correct", "incorrect", "wrong", "clear", "obvious", "simple", "reasonable", "consistent",
    "verified", "confirmed", "here", "there", "this", "that", "it", "the following",
)  # fmt: skip


def denies(clause: str) -> bool:
    """Whether an announced clause says that there is no answer, or begins to reason."""
    head = clause[:24].translate(_TO_LOWER)
    if head.startswith("...") or (len(clause) < 24 and head in _REMARKS):
        return True
    return any(
        head.startswith(word) and not _is_word_char(head[len(word) : len(word) + 1])
        for word in _DENIALS
    )


def _is_word_char(char: str) -> bool:
    return char.isascii() and (char.isalnum() or char == "_")


# The multilingual marks of openai/simple-evals and of MGSM; each takes a colon, ASCII or
# full-width.
WITH_COLON = (
    "Antwort",  # German
    "R\u00e9ponse",  # French
    "Respuesta",  # Spanish
    "Risposta",  # Italian
    "Resposta",  # Portuguese
    "\u041e\u0442\u0432\u0435\u0442",  # Russian
    "Jawaban",  # Indonesian
    "Jibu",  # Swahili
    "\u1eccd\u00e1h\u00f9n",  # Yoruba, and seven more spellings of it
    "\u00ccd\u00e1h\u00f9n",
    "Id\u00e1h\u00f9n",
    "Idahun",
    "\u00c0d\u00e1h\u00f9n",
    "\u00c0m\u1ecd\u0300n\u00e0",
    "\u00c0n\u00fag\u1ecd",
    "\u00c0\u1e63\u00e0y\u00e0n",
    "\u0989\u09a4\u09cd\u09a4\u09b0",  # Bengali
    "\u0989\u09a4\u09cd\u09a4\u09b0\u0983",
    "\u0909\u0924\u094d\u0924\u0930",  # Hindi
    "\u0c38\u0c2e\u0c3e\u0c27\u0c3e\u0c28\u0c02",  # Telugu
    "\u0e04\u0e33\u0e15\u0e2d\u0e1a",  # Thai
    "\ub2f5\ubcc0",  # Korean, three words
    "\uc815\ub2f5",
    "\ub2f5",
    "\u7b54\u6848",  # Chinese
    "\u7b54",
    "\u7b54\u590d",
    "\u7b54\u66f0",
    "\u7b54\u3048",  # Japanese
    "\u56de\u7b54",
    "\u89e3\u7b54",
    "\u0627\u0644\u0625\u062c\u0627\u0628\u0629",  # Arabic
    "\u0627\u0644\u062c\u0648\u0627\u0628",
    "\u0625\u062c\u0627\u0628\u0629",
    "\u0627\u0644\u0625\u062c\u0627\u0628\u0629 \u0627\u0644\u0646\u0647\u0627\u0626\u064a\u0629",
    "\u0627\u0644\u0625\u062c\u0627\u0628\u0629 \u0627\u0644\u0635\u062d\u064a\u062d\u0629",
    "\u0627\u0644\u0625\u062c\u0627\u0628\u0629 \u0627\u0644\u0635\u062d\u064a\u062d\u0629"
    " \u0647\u064a",
    "\u0627\u0644\u0625\u062c\u0627\u0628\u0629 \u0647\u064a",
    "\u0627\u0644\u062c\u0648\u0627\u0628 \u0627\u0644\u0646\u0647\u0627\u0626\u064a",
)
"""Marks that need a colon after them; the first letter in either case."""
WITHOUT_COLON = (
    "\u7b54\u6848\u662f",  # Chinese "the answer is"
    "\u7b54\u6848\u4e3a",
    "\u7b54\u6848\u70ba",
    "\u7b54\u3048\u306f",  # Japanese
    "\ub2f5\uc740",  # Korean
    "Respuesta es",
    "Respuesta final es",
    "Respuesta correcta es",
    "R\u00e9ponse est",
    "R\u00e9ponse finale est",
    "Risposta \u00e8",
    "Risposta finale \u00e8",
    "Resposta \u00e9",
    "Resposta final \u00e9",
    "Antwort ist",
    "Antwort lautet",
    "Antwort betr\u00e4gt",
)
"""Marks that need none."""
LETTERS = dict(zip("\u0623\u0628\u062c\u062f\u0985\u09ac\u09a1\u09a2", "abcdabcd", strict=True))
"""Arabic and Bengali choice letters."""


def _alternatives(words: tuple[str, ...]) -> str:
    """Any of the words, the longest first, its first letter in either case."""
    longest_first = sorted(words, key=len, reverse=True)
    return "|".join(
        f"[{word[0].upper()}{word[0].lower()}]{re.escape(word[1:])}" for word in longest_first
    )


OTHER_LANGUAGES = re.compile(
    rf"(?:{_alternatives(WITH_COLON)})[{BLANKS}]{{0,8}}+\*{{0,2}}+[{BLANKS}]{{0,8}}+[:\uff1a]"
    rf"|(?:{_alternatives(WITHOUT_COLON)})"
)
