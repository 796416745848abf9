"""Words that announce an answer, and words that begin another question, per language."""

from __future__ import annotations

import re

RUN_ON_MARKS = ("Question", "Q", "Problem")
"""A line or sentence that starts with one of these and a colon is not the model's own answer."""

# The multilingual marks of openai/simple-evals; each takes a colon, ASCII or full-width.
_WITH_COLON = (
    "Antwort",  # German
    "R\u00e9ponse",  # French
    "Respuesta",  # Spanish
    "Risposta",  # Italian
    "Resposta",  # Portuguese
    "Jawaban",  # Indonesian
    "Jibu",  # Swahili
    "\u1eccd\u00e1h\u00f9n",  # Yoruba, and six more spellings of it
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
    "\u0627\u0644\u0625\u062c\u0627\u0628\u0629 \u0647\u064a",
    "\u0627\u0644\u062c\u0648\u0627\u0628 \u0627\u0644\u0646\u0647\u0627\u0626\u064a",
)
_WITHOUT_COLON = (
    "\u7b54\u6848\u662f",  # Chinese "the answer is"
    "\u7b54\u6848\u4e3a",
    "\u7b54\u6848\u70ba",
    "\u7b54\u3048\u306f",  # Japanese
    "La respuesta es",
    "La r\u00e9ponse est",
    "La risposta \u00e8",
    "A resposta \u00e9",
    "Die Antwort ist",
    "Die Antwort lautet",
)


STEMS = tuple(word[1:] if len(word) > 3 else word for word in (*_WITH_COLON, *_WITHOUT_COLON))
"""A text that holds none of these, whatever the case of the first letter, holds no such mark."""


def _alternatives(words: tuple[str, ...]) -> str:
    """Any of the words, the longest first, its first letter in either case."""
    longest_first = sorted(words, key=len, reverse=True)
    return "|".join(
        f"[{word[0].upper()}{word[0].lower()}]{re.escape(word[1:])}" for word in longest_first
    )


OTHER_LANGUAGES = re.compile(
    rf"(?:{_alternatives(_WITH_COLON)})[ \t]*\**[ \t]*[:\uff1a]"
    rf"|(?:{_alternatives(_WITHOUT_COLON)})[ \t]*[:\uff1a]?"
)
