"""Reading answers and voting: fastsi beside math-verify and lm-eval's filters, in one run.

First, the answers of responses of one length in six conventions, one thread: extraction and key in
C++ (`answer_key`, `answer_keys`) and in Python, math-verify's parse and verify, lm-eval's gsm8k
filters. Then a whole vote from token ids: decoding with the tokenizer, keys, and a Counter per
question, against the fused op `vote_answers`.

math-verify and lm-eval are optional: `pip install math-verify`, and `pip install --no-deps lm-eval`
(its filters need nothing else). What is missing is left out and named.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _harness import (
    Floor,
    Result,
    Timing,
    add_arguments,
    machine_rates,
    measure,
    measure_short,
    report,
    start,
)
from _responses import answer_of, responses
from transformers import AutoTokenizer, PreTrainedTokenizerBase

import fastsi
from fastsi.ops import TokenBytes
from fastsi.vote import answer_key, answer_keys, vote_answers
from fastsi.vote.extract import reference_answer_key

# The patterns of lm-eval's gsm8k tasks: strict-match, flexible-extract, self-consistency.
LM_EVAL = {
    "strict": {"regex_pattern": r"#### (\-?[0-9\.\,]+)"},
    "flexible": {"regex_pattern": r"(-?[$0-9.,]{2,})|(-?[0-9]+)", "group_select": -1},
    "self-consistency": {"regex_pattern": r"The answer is (\-?[0-9\.\,]*[0-9]+)"},
}
_ANSWERS = 5


def optional(name: str) -> Any:
    """A module that may be missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"{name}: not installed, left out (see --help)", file=sys.stderr)
        return None


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--responses", type=int, help="read one by one (default: 300, quick: 12)")
    parser.add_argument("--characters", type=int, default=1200, help="length of a response")
    parser.add_argument("--questions", type=int, help="voted on (default: 1024, quick: 4)")
    parser.add_argument("--paths", type=int, default=32, help="paths per question")
    parser.add_argument("--tokens", type=int, default=256, help="tokens per path")
    parser.add_argument(
        "--tokenizer",
        default="builtin",
        help="builtin, a folder, or a .gguf file (default: builtin)",
    )
    add_arguments(parser)
    args = parser.parse_args()
    args.responses = args.responses or (12 if args.quick else 300)
    args.questions = args.questions or (4 if args.quick else 1024)
    args.threads = args.threads or 1
    for name in ("responses", "characters", "questions", "paths", "tokens"):
        if getattr(args, name) < 1:
            raise SystemExit(f"--{name}={getattr(args, name)}: must be at least 1")
    return args


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    if name == "builtin":
        return AutoTokenizer.from_pretrained(Path(fastsi.__file__).parent / "assets" / "base")
    path = Path(name)
    if path.suffix == ".gguf":
        return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return AutoTokenizer.from_pretrained(path)


# --- reading answers ----------------------------------------------------------------------------

Reader = Callable[[list[str]], list[Any]]


def readers() -> dict[str, Reader]:
    """By provider: the answers of a list of texts, in a form that `agrees` understands."""
    found: dict[str, Reader] = {
        "fastsi-python": lambda texts: [reference_answer_key(text) for text in texts],
        "fastsi": lambda texts: [answer_key(text) for text in texts],
        "fastsi-batch": lambda texts: answer_keys(texts, threads=1),
    }
    if (math_verify := optional("math_verify")) is not None:
        found["math-verify parse"] = lambda texts: [
            math_verify.parse(text, parsing_timeout=None) for text in texts
        ]
    if optional("lm_eval") is not None:
        filters = importlib.import_module("lm_eval.filters.extraction")
        for name, options in LM_EVAL.items():
            regex = filters.RegexFilter(**options)
            found[f"lm-eval {name}"] = lambda texts, regex=regex: [
                answer for (answer,) in regex.apply([[text] for text in texts], texts)
            ]
    return found


def agrees(found: Any, answer: int) -> bool:
    """Whether what a provider returned for a text is its answer."""
    if isinstance(found, list):  # math-verify's candidates
        return any(str(each) == str(answer) for each in found)
    return str(found).removeprefix("num:").strip("$.,") == str(answer)


def reading(args: argparse.Namespace) -> dict[str, Any]:
    """Time and report the readers; returns what the last JSON line repeats of it."""
    texts = responses(args.responses, characters=args.characters, answers=_ANSWERS, seed=1)
    truth = [answer_of(i, answers=_ANSWERS) for i in range(len(texts))]
    providers = readers()
    right = {}
    for name, read in providers.items():
        outcomes = [agrees(f, a) for f, a in zip(read(texts), truth, strict=True)]
        right[name] = sum(outcomes) / len(outcomes)
        if name.startswith("fastsi") and right[name] < 1:
            raise SystemExit(f"{name}: reads {1 - right[name]:.1%} of the answers wrong; not timed")
    timings = measure_short(
        {name: (lambda read=read: read(texts)) for name, read in providers.items()},
        repeats=args.repeats,
        min_seconds=0.01 if args.quick else 0.3,
    )
    per_text = {
        name: Timing(samples=[value / len(texts) for value in timing.samples])
        for name, timing in timings.items()
    }
    details: dict[str, Any] = {"right": right}
    if "math-verify parse" in providers:
        details["math_verify_verify_us"] = verify_us(args)
    result = Result(
        workload={"characters": args.characters, "responses": len(texts), "threads": 1},
        timings=per_text,
        baseline="fastsi-python",
        details=details,
    )
    report(result, title="one response: extraction and key", json_out=args.json_out)
    print("right: " + ", ".join(f"{name} {share:.0%}" for name, share in right.items()))
    found = {f"{name}_us": 1e6 * timing.seconds for name, timing in per_text.items()}
    return found | details


def verify_us(args: argparse.Namespace) -> float:
    """Microseconds that math-verify takes to compare two parsed integers."""
    math_verify = importlib.import_module("math_verify")
    pairs = [
        (math_verify.parse(str(a), parsing_timeout=None), math_verify.parse(str(b)))
        for a in range(1, 9)
        for b in range(1, 9)
    ]
    compare = {"verify": lambda: [math_verify.verify(a, b, timeout_seconds=None) for a, b in pairs]}
    return 1e6 * measure_short(compare, repeats=args.repeats)["verify"].seconds / len(pairs)


# --- whole votes --------------------------------------------------------------------------------


def paths_of(args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of every path, of one length; the answer is at the end."""
    count = args.questions * args.paths
    texts = responses(min(count, 2048), characters=8 * args.tokens, answers=_ANSWERS, seed=2)
    ids = [path[-args.tokens :] for path in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    short = min(map(len, ids))
    if short < args.tokens:
        raise SystemExit(f"--tokens={args.tokens}: a path has only {short}; ask for fewer")
    return [ids[i * 7 % len(ids)] for i in range(count)]


def voting(args: argparse.Namespace, details: dict[str, Any]) -> None:
    tokenizer = load_tokenizer(args.tokenizer)
    paths = paths_of(args, tokenizer)
    table = TokenBytes.from_tokenizer(tokenizer)
    tokens = torch.tensor([token for path in paths for token in path], dtype=torch.int32)
    path_indptr = torch.arange(len(paths) + 1) * args.tokens
    group_indptr = torch.arange(args.questions + 1) * args.paths

    def decoded(read: Reader) -> list[str | None]:
        keys = read(tokenizer.batch_decode(paths, skip_special_tokens=True))
        winners: list[str | None] = []
        for begin in range(0, len(keys), args.paths):
            counts = Counter(key for key in keys[begin : begin + args.paths] if key is not None)
            winners.append(counts.most_common(1)[0][0] if counts else None)
        return winners

    def fused() -> list[str | None]:
        found = vote_answers(tokens, path_indptr, group_indptr, table)
        named = [*found.keys, None]
        return [named[winner] for winner in found.winner.tolist()]

    ours = readers()
    providers = {
        "decode-python": lambda: decoded(ours["fastsi-python"]),
        "decode-cpp": lambda: decoded(ours["fastsi-batch"]),
        "fused": fused,
    }
    wanted = providers["decode-python"]()
    for name, run in providers.items():
        if run() != wanted or None in wanted:
            raise SystemExit(f"{name}: its winners are not those of decode-python; not timed")
    spelled = sum(len(text.encode()) for text in tokenizer.batch_decode(paths))
    moved = float(tokens.nbytes + 3 * spelled)
    rates = machine_rates(quick=args.quick)
    result = Result(
        workload={
            "questions": args.questions,
            "paths": args.paths,
            "tokens": args.tokens,
            "tokenizer": args.tokenizer,
            "characters": spelled / len(paths),
            "threads": args.threads,
        },
        timings=measure(providers, repeats=args.repeats),
        baseline="decode-python",
        tokens=float(tokens.shape[0]),
        floor=Floor(
            seconds=moved / rates.bytes_per_s,
            flops=0.0,
            bytes=moved,
            rates=rates,
            note="tokens read once; what they spell read from the table, written, and read again",
        ),
        details={"reading": details},
    )
    report(result, title="votes from token ids", json_out=args.json_out)


def main() -> None:
    """Check, time, print."""
    args = parse_args()
    start(args)
    voting(args, reading(args))


if __name__ == "__main__":
    main()
