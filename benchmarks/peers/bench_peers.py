"""fastsi beside its peers: the same model, prompts, paths, lengths and temperature.

Every peer runs in a process and an environment of its own (`make_envs.py`, `make_models.py`). Each
repeat visits the providers in another order; a visit loads the model, warms up with the largest
workload (those that run once: with a small one), so that memory is there, and runs every workload
once with prompts of its own, so that no cache of a former run helps. Loading is not timed; prefill
is. Before timing, a visit continues four short prompts greedily, and the share of tokens that equal
those of transformers in float32 is shown: below 100 % the provider computes in lower precision or
something else.

Workloads (shared + own prompt tokens, paths, new tokens, questions):
  W1  1,024 + 60, 32, 64, 1      W2  the same, 8 questions
  W3     64 + 60, 32, 64, 8      W4  2,048 + 60, 64, 64, 8

Example:
    python benchmarks/peers/bench_peers.py --root peers-env --models peers-models \\
        --gguf SmolLM2-135M-Instruct.Q4_1.gguf --workloads W1 W2 --repeats 3
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from _floor import PathsWorkload, decode_floor
from _harness import Floor, machine_rates, versions
from _rates import int8_rate
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig

from fastsi.api import builtin_model

HERE = Path(__file__).resolve().parent
WORKLOADS = {
    "W1": PathsWorkload(
        prefix_tokens=1024, question_tokens=60, questions=1, paths=32, new_tokens=64
    ),
    "W2": PathsWorkload(
        prefix_tokens=1024, question_tokens=60, questions=8, paths=32, new_tokens=64
    ),
    "W3": PathsWorkload(prefix_tokens=64, question_tokens=60, questions=8, paths=32, new_tokens=64),
    "W4": PathsWorkload(
        prefix_tokens=2048, question_tokens=60, questions=8, paths=64, new_tokens=64
    ),
}
QUICK = PathsWorkload(prefix_tokens=24, question_tokens=6, questions=2, paths=4, new_tokens=6)
WARM = PathsWorkload(prefix_tokens=256, question_tokens=20, questions=2, paths=32, new_tokens=8)
BASELINE = "fastsi"
QUICK_PROVIDERS = ("transformers", "fastsi", "fastsi-shared-kv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """How to start one provider."""

    driver: str
    environment: str | None
    """Folder below --root; None: the environment this script runs in."""
    settings: dict[str, Any]
    """Sent to the driver; {gguf} and {models} are filled in."""
    slow: bool = False
    """Only W1, and once."""


def _fastsi(**options: Any) -> Provider:
    return Provider(
        driver="fastsi",
        environment=None,
        settings={"folder": "{models}/float32", "options": options},
    )


def _openvino(path: str, **properties: str) -> Provider:
    settings = {"path": path, "properties": properties}
    return Provider(driver="openvino", environment="openvino", settings=settings)


PROVIDERS = {
    "fastsi": _fastsi(),
    "fastsi-int8": _fastsi(quantization="int8", kv_dtype="int8"),
    "fastsi-bf16": _fastsi(quantization="bf16", kv_dtype="int8"),
    "fastsi-bf16-kv32": _fastsi(quantization="bf16"),
    "fastsi-int8-kv32": _fastsi(quantization="int8"),
    "fastsi-kv8": _fastsi(kv_dtype="int8"),
    "fastsi-deterministic": _fastsi(deterministic=True),
    "fastsi-shared-kv": _fastsi(sharing="prefill"),
    "fastsi-no-sharing": dataclasses.replace(_fastsi(sharing="none"), slow=True),
    "vllm": Provider(
        driver="vllm", environment="vllm", settings={"folder": "{models}/float32", "rows": 512}
    ),
    "vllm-bf16": Provider(
        driver="vllm",
        environment="vllm",
        settings={"folder": "{models}/float32", "rows": 512, "dtype": "bfloat16"},
    ),
    "openvino-gguf": _openvino("{gguf}"),
    "openvino-fp32": _openvino("{models}/openvino-fp32", INFERENCE_PRECISION_HINT="f32"),
    "openvino-bf16": _openvino("{models}/openvino-fp32", INFERENCE_PRECISION_HINT="bf16"),
    "openvino-int8": _openvino("{models}/openvino-int8"),
    "llama.cpp": Provider(driver="llama_cpp", environment="llama_cpp", settings={"path": "{gguf}"}),
    "transformers": Provider(
        driver="transformers",
        environment=None,
        settings={"folder": "{models}/float32"},
        slow=True,
    ),
    "ctranslate2": Provider(
        driver="ctranslate2",
        environment="ctranslate2",
        settings={"path": "{models}/ctranslate2-fp32", "folder": "{models}/float32"},
        slow=True,
    ),
    "ctranslate2-int8": Provider(
        driver="ctranslate2",
        environment="ctranslate2",
        settings={
            "path": "{models}/ctranslate2-int8",
            "folder": "{models}/float32",
            "compute_type": "int8",
        },
        slow=True,
    ),
}


class Failed(Exception):
    """A provider could not do what it was asked."""


class Driver:
    """A provider's process."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        provider = PROVIDERS[name]
        python = Path(sys.executable)
        if provider.environment is not None:
            python = args.root / provider.environment / "bin" / "python"
            if not python.exists():
                raise Failed(f"no environment {python.parent.parent}: run make_envs.py")
        env = os.environ | {
            "OMP_NUM_THREADS": str(args.threads),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(HERE),  # for _protocol, also where the script's folder is not on it
        }
        self.process = subprocess.Popen(
            [python, str(HERE / f"driver_{provider.driver}.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=args.log,
            text=True,
            env=env,
        )
        settings = json.loads(
            json.dumps(provider.settings)
            .replace("{models}/float32", str(args.folder.absolute()))
            .replace("{models}", str(args.models.absolute()))
            .replace("{gguf}", str(args.gguf.absolute()) if args.gguf else "")
        )
        self.versions = self._ask({"load": settings | {"threads": args.threads}})["ready"]

    def run(self, work: PathsWorkload, prompts: list[list[int]], **how: Any) -> dict[str, Any]:
        """Seconds, token ids and what else the driver says of one call."""
        request = {"n": work.paths, "new_tokens": work.new_tokens, "prompts": prompts} | how
        answer = self._ask({"run": request})
        rows = answer["rows"]
        if len(rows) != len(prompts) * request["n"] or answer["lengths"] != [request["new_tokens"]]:
            raise Failed(
                f"{len(rows)} rows of {answer['lengths']} tokens instead of "
                f"{len(prompts) * request['n']} of {request['new_tokens']}"
            )
        return answer

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Failed(f"the process ended with status {self.process.wait()}; see the log")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(slots=True)
class Findings:
    """All that was measured, by provider and workload."""

    seconds: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    greedy: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def prompts_of(work: PathsWorkload, vocabulary: int, seed: int) -> list[list[int]]:
    """Random token ids; all prompts begin with the same prefix."""
    draw = random.Random(seed)

    def some(count: int) -> list[int]:
        return [draw.randrange(3, vocabulary) for _ in range(count)]

    prefix = some(work.prefix_tokens)
    return [prefix + some(work.question_tokens) for _ in range(work.questions)]


def visit(
    name: str, repeat: int, args: argparse.Namespace, reference: list[list[int]], found: Findings
) -> list[list[int]]:
    """Load, check, warm up and time one provider; returns its greedy tokens."""
    driver = Driver(name, args)
    try:
        found.versions[name] = driver.versions
        vocabulary = args.config.vocab_size
        check = dataclasses.replace(QUICK, questions=4, paths=1, new_tokens=8)
        greedy = driver.run(check, prompts_of(check, vocabulary, 1), temperature=0.0, seed=0)
        rows: list[list[int]] = greedy["rows"]
        if reference:
            pairs = [
                a == b
                for x, y in zip(reference, rows, strict=True)
                for a, b in zip(x, y, strict=True)
            ]
            found.greedy[name] = sum(pairs) / len(pairs)
        if not args.quick:
            warm = WARM if PROVIDERS[name].slow else args.largest
            driver.run(warm, prompts_of(warm, vocabulary, 2), temperature=0.7, seed=0)
        for label, work in args.work.items():
            if PROVIDERS[name].slow and (label != args.first or repeat):
                continue
            prompts = prompts_of(work, vocabulary, 1000 * repeat + 10)
            answer = driver.run(work, prompts, temperature=args.temperature, seed=repeat)
            found.seconds[name][label].append(answer["seconds"])
            found.peak[name] = answer["peak_bytes"]
            if "stats" in answer:
                found.details[name][label] = answer["stats"]
            tokens = work.questions * work.paths * work.new_tokens
            print(
                f"repeat {repeat + 1}: {name} {label} {answer['seconds']:.3g} s, "
                f"{tokens / answer['seconds']:.0f} tokens/s",
                file=sys.stderr,
                flush=True,
            )
        return rows
    finally:
        driver.close()


def show(found: Findings, args: argparse.Namespace, floors: dict[str, Floor]) -> None:
    """Print one table per workload."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    for label, work in args.work.items():
        median = {
            name: statistics.median(by[label]) for name, by in found.seconds.items() if by[label]
        }
        tokens = work.questions * work.paths * work.new_tokens
        view = Table(title=f"{label}: {dataclasses.asdict(work)}", title_justify="left")
        view.add_column("provider", min_width=20)
        columns = ("median s", "spread", "tokens/s", "fastsi is", "int8 is", "of floor")
        for column in (*columns, "greedy equal", "peak GB"):
            view.add_column(column, justify="right")
        for name, seconds in median.items():
            samples = found.seconds[name][label]
            ratios = [
                f"{seconds / median[own]:.2f} x" if own in median else "-"
                for own in ("fastsi", "fastsi-int8")
            ]
            equal = f"{found.greedy[name]:.0%}" if name in found.greedy else "-"
            view.add_row(
                name,
                f"{seconds:.2f}",
                f"{(max(samples) - min(samples)) / seconds:.0%}",
                f"{tokens / seconds:.0f}",
                *ratios,
                f"{floors[label].seconds / seconds:.0%}",
                equal,
                f"{found.peak[name] / 1e9:.1f}",
            )
        console.print(view)


def as_json(
    label: str, found: Findings, args: argparse.Namespace, floor: Floor, int8: float
) -> dict[str, Any]:
    """The object of a workload's JSON line, with the keys every benchmark has."""
    work = args.work[label]
    tokens = work.questions * work.paths * work.new_tokens
    samples = {name: by[label] for name, by in found.seconds.items() if by[label]}
    median = {name: statistics.median(values) for name, values in samples.items()}
    base = median.get(BASELINE) or next(iter(median.values()))
    shares = {name: floor.seconds / seconds for name, seconds in median.items()}
    return {
        "workload": {"name": label, "model": str(args.folder)} | dataclasses.asdict(work),
        "baseline": BASELINE,
        "providers": {
            name: {
                "seconds": seconds,
                "tokens_per_s": tokens / seconds,
                "samples": samples[name],
                "greedy_equal": found.greedy.get(name),
                "peak_bytes": found.peak[name],
            }
            for name, seconds in median.items()
        },
        "ratios": {name: base / seconds for name, seconds in median.items()},
        "floor": dataclasses.asdict(floor) | {"share": shares, "int8_ops_per_s": int8},
        "details": {
            "failures": found.failures,
            "stats": {name: by[label] for name, by in found.details.items() if label in by},
        },
        "versions": versions() | {"providers": found.versions},
        "command": shlex.join(sys.argv),
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("--root", type=Path, default=Path("peers-env"), help="environments (make_envs.py)")
    add("--models", type=Path, default=Path("peers-models"), help="models (make_models.py)")
    add("--gguf", type=Path, help="the GGUF file, for llama.cpp and openvino-gguf")
    add("--providers", nargs="+", choices=list(PROVIDERS), metavar="NAME",
        help=f"of {', '.join(PROVIDERS)} (default: all)")  # fmt: skip
    add("--workloads", nargs="+", choices=list(WORKLOADS), default=["W1", "W2", "W3"],
        metavar="W", help="default: W1 W2 W3")  # fmt: skip
    add("--repeats", type=int, default=3, help="visits of each provider (default: 3)")
    add("--temperature", type=float, default=0.7, help="default: 0.7")
    add("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of every peer")
    add(
        "--quick",
        action="store_true",
        help="one tiny workload; without --providers: the bundled model, fastsi and transformers",
    )
    add("--log", type=Path, default=Path("bench_peers.log"), help="what the providers print")
    add("--json-out", type=Path, help="also append the JSON line to this file")
    return result


def main() -> None:
    """Run the benchmark."""
    args = parser().parse_args()
    small = args.quick and args.providers is None
    args.providers = args.providers or (list(QUICK_PROVIDERS) if small else list(PROVIDERS))
    args.folder = builtin_model() if small else args.models / "float32"
    if not args.folder.is_dir():
        raise SystemExit(f"error: no model {args.folder}: run make_models.py")
    needs = [n for n in args.providers if "{gguf}" in str(PROVIDERS[n].settings)]
    if needs and (args.gguf is None or not args.gguf.is_file()):
        raise SystemExit(f"error: --gguf={args.gguf}: no such file, and {needs[0]} reads it")
    if args.repeats < 1:
        raise SystemExit(f"error: --repeats={args.repeats}: must be at least 1")
    args.config = AutoConfig.from_pretrained(args.folder)
    args.work = {"quick": QUICK} if args.quick else {w: WORKLOADS[w] for w in args.workloads}
    args.first = next(iter(args.work))
    args.largest = max(args.work.values(), key=PathsWorkload.kept_tokens)
    args.repeats = 1 if args.quick else args.repeats
    torch.set_num_threads(args.threads)
    rates = machine_rates(quick=args.quick)
    floors = {
        label: decode_floor(args.config, work, rates, dtype=torch.float32)
        for label, work in args.work.items()
    }
    found, reference = Findings(), []
    names = sorted(args.providers, key=lambda name: name != "transformers")
    with args.log.open("a", encoding="utf-8") as log:
        args.log = log
        for repeat in range(args.repeats):
            for name in names[repeat:] + names[:repeat]:
                if name in found.failures or (PROVIDERS[name].slow and repeat):
                    continue
                try:
                    rows = visit(name, repeat, args, reference, found)
                except Failed as error:
                    found.failures[name] = str(error)
                    print(f"{name}: {error}", file=sys.stderr, flush=True)
                    continue
                if name == "transformers":
                    reference = rows
    show(found, args, floors)
    int8 = int8_rate(quick=args.quick)
    print(
        f"rates: {rates.flops_per_s / 1e9:.4g} GFLOP/s float32, {int8 / 1e9:.4g} Gop/s dynamic "
        f"int8, {rates.bytes_per_s / 1e9:.3g} GB/s"
    )
    for label in args.work:
        line = json.dumps(as_json(label, found, args, floors[label], int8))
        if args.json_out is not None:
            with args.json_out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        print(line)


if __name__ == "__main__":
    main()
