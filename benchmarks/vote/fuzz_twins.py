"""Random and mutated texts through both twins of the vote; any difference is an error.

Half of them are responses, read by `answer_key`, half bare answers, read by `key_of_answer`. The
quick versions are tests/vote/test_extract_twin.py and test_key_twin.py; this one is run by hand
with a million inputs.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from pathlib import Path

# For the generators in tests/; last, because the root's own fastsi/ may lack the extension.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from fastsi import _ext
from fastsi.types import EXTRACTORS, RUN_ON_MARKS
from fastsi.vote.extract import reference_answer_key
from fastsi.vote.key import reference_key_of_answer
from tests.support.answers import answer
from tests.support.responses import response

RUN_ONS = (RUN_ON_MARKS, ("Exercise", "#Q", "* Next"), ())


def keys_of_response(rng: random.Random) -> tuple[str, object, Callable[[], str | None]]:
    """A response with its settings, what C++ says of it, and how to ask the definition."""
    text, last_number = response(rng), rng.random() < 0.2
    extractor = "auto" if rng.random() < 0.5 else rng.choice(EXTRACTORS)
    run_on = RUN_ON_MARKS if rng.random() < 0.7 else rng.choice(RUN_ONS)
    options = _ext.core().ExtractOptions(EXTRACTORS.index(extractor), last_number, list(run_on))
    return (
        f"{text!r} ({extractor}, {last_number}, {run_on})",
        _ext.core().answer_key(text, options),
        lambda: reference_answer_key(
            text, extractor=extractor, last_number=last_number, run_on=run_on
        ),
    )


def keys_of_answer(rng: random.Random) -> tuple[str, object, Callable[[], str | None]]:
    """The same for a bare answer."""
    text = answer(rng)
    return repr(text), _ext.core().key_of_answer(text), lambda: reference_key_of_answer(text)


def main() -> int:
    """Compare, print differences and how many texts C++ leaves to the definition."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="texts (default: 100000)")
    parser.add_argument("--seed", type=int, default=0, help="of the texts (default: 0)")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    different = left = 0
    for number in range(args.inputs):
        what, key, definition = (keys_of_answer if number % 2 else keys_of_response)(rng)
        if key is NotImplemented:
            left += 1
        elif key != (wanted := definition()):
            different += 1
            print(f"{what}: {key!r}, not {wanted!r}")
    print(
        f"{args.inputs} texts, seed {args.seed}: {different} differ, "
        f"{left / max(args.inputs, 1):.2%} left to the definition"
    )
    return int(different > 0)


if __name__ == "__main__":
    raise SystemExit(main())
