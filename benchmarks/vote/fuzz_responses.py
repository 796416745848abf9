"""Random and mutated responses through both twins of `answer_key`; any difference is an error.

The quick version is tests/vote/test_extract_twin.py; this one is run by hand with a million inputs.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fastsi import _ext
from fastsi.types import EXTRACTORS, RUN_ON_MARKS
from fastsi.vote.extract import reference_answer_key
from tests.support.responses import response

RUN_ONS = (RUN_ON_MARKS, ("Exercise", "#Q", "* Next"), ())


def main() -> int:
    """Compare, print differences and how many texts C++ leaves to the definition."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="responses (default: 100000)")
    parser.add_argument("--seed", type=int, default=0, help="of the responses (default: 0)")
    args = parser.parse_args()
    core = _ext.core()
    rng = random.Random(args.seed)
    different = left = 0
    for _ in range(args.inputs):
        text, last_number = response(rng), rng.random() < 0.2
        extractor = "auto" if rng.random() < 0.5 else rng.choice(EXTRACTORS)
        run_on = RUN_ON_MARKS if rng.random() < 0.7 else rng.choice(RUN_ONS)
        options = core.ExtractOptions(EXTRACTORS.index(extractor), last_number, list(run_on))
        key = core.answer_key(text, options)
        if key is NotImplemented:
            left += 1
            continue
        wanted = reference_answer_key(
            text, extractor=extractor, last_number=last_number, run_on=run_on
        )
        if key != wanted:
            different += 1
            print(f"{text!r} ({extractor}, {last_number}, {run_on}): {key!r}, not {wanted!r}")
    print(
        f"{args.inputs} responses, seed {args.seed}: {different} differ, "
        f"{left / max(args.inputs, 1):.2%} left to the definition"
    )
    return int(different > 0)


if __name__ == "__main__":
    raise SystemExit(main())
