"""Kill a small run with SIGKILL at random moments, resume it, and compare with one never killed.

    python benchmarks/train/kill_resume.py --kills 30

Every attempt is a process of its own that calls `run_rounds` on the same folder and is killed after
a random time, measured from the moment it begins to work. When a run gets to its end, its artifacts
are compared with those of the uninterrupted run and the next run starts, until so many kills were
done. After each kill, before the resume, the folder is read as a bystander would: whatever has its
final name must be whole.

Prints what each kill hit, then one JSON line; exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

import fastsi
from fastsi.data.manifest import MANIFEST, content_hash
from fastsi.data.stories import make_problems
from fastsi.engine import LLM
from fastsi.train import ImproveConfig, run_rounds
from fastsi.types import Question

BASE = Path(fastsi.__file__).parent / "assets" / "base"
TABLES = ("paths.parquet", "votes.parquet", "train.parquet")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="kills in all (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument("--model", type=Path, default=BASE, help="model (default: the bundled)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds per run (default: 2)")
    parser.add_argument("--questions", type=int, default=24, help="questions (default: 24)")
    parser.add_argument("--paths", type=int, default=8, help="paths per question (default: 8)")
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps (default: 12)")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="of weights (default: 1e-5)")
    parser.add_argument("--work", type=Path, help="folder for the runs (default: a temporary one)")
    return parser.parse_args()


def work(args: argparse.Namespace, run: Path) -> None:
    """What gets killed: the same call every time."""
    config = ImproveConfig.from_dict(
        {
            "rounds": args.rounds,
            "sample": {"paths": args.paths, "max_tokens": 64, "shard_questions": 4},
            # What a round teaches is not the question here, and a tiny model may well end up
            # giving one answer to everything.
            "select": {"min_lead": 1, "collapse_share": 1.0},
            "train": {"steps": args.steps, "batch_size": 8, "learning_rate": 3e-4, "save_every": 2},
        }
    )
    problems = make_problems("improve", args.questions, 0)
    questions = [Question(id=p.id, question=p.question) for p in problems]
    # A cache of fixed size: "auto" looks at the free memory, which differs between attempts.
    llm = LLM(args.model, kv_cache_tokens=8192, max_batch_rows=32)
    run_rounds(llm, config, questions, run, progress=False)


def spawn(job: Callable[[], None]) -> tuple[int, int]:
    """Run ``job`` in a forked process; its id and a pipe that says when the job begins.

    Forking saves the imports. It is sound because this process starts no threads of its own: all
    work, the comparisons too, is done in children.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            torch.set_num_threads(1)
            os.write(writer, b"x")
            job()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    return child, reader


def finish(job: Callable[[], None], what: str) -> None:
    """Run ``job`` in a child to its end."""
    child, reader = spawn(job)
    _, status = os.waitpid(child, 0)
    os.close(reader)
    if status != 0:
        raise SystemExit(f"FAILED: {what} (exit status {os.waitstatus_to_exitcode(status)})")


def attempt(job: Callable[[], None], delay: float) -> bool:
    """Run ``job`` and kill it ``delay`` seconds after it begins; whether it came to its end."""
    child, reader = spawn(job)
    os.read(reader, 1)
    # The pipe closes when the child ends, so this waits for the end or the delay.
    ended = bool(select.select([reader], [], [], delay)[0])
    if not ended:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(reader)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    if status != 0:
        raise SystemExit(f"FAILED: an attempt ended with {os.waitstatus_to_exitcode(status)}")
    return True


def check_visible(run: Path) -> None:
    """Whatever has its final name is whole: tables parse, weights load, listed hashes agree."""
    for table in run.rglob("[!.]*.parquet"):
        pq.read_table(table)
    for weights in run.glob("round-*/checkpoint/*.safetensors"):
        load_file(weights)
    if (run / MANIFEST).exists():
        listed = json.loads((run / MANIFEST).read_text())["artifacts"]
        for name, entry in listed.items():
            # A part file may be gone a moment before its entry is, never changed.
            if (run / name).exists():
                assert content_hash(run / name) == entry["sha256"], f"{name} is not what is listed"
            else:
                assert "/.parts/" in name, f"{name} is listed and missing"


def position(run: Path, rounds: int) -> str:
    """Which phase a kill hit, from what the folder holds."""
    path = run / MANIFEST
    listed = json.loads(path.read_text())["artifacts"] if path.exists() else {}
    for number in range(1, rounds + 1):
        for file, phase in (("paths.parquet", "sample"), ("train.parquet", "vote and select")):
            if f"round-{number}/{file}" not in listed:
                return f"round {number}: {phase}"
        if f"round-{number}/checkpoint" not in listed:
            saved = (run / f"round-{number}" / ".training-state").exists()
            return f"round {number}: train" + (", some steps saved" if saved else "")
        if f"round-{number}/metrics.json" not in listed:
            return f"round {number}: report"
    return "end"


def kill_until_done(
    args: argparse.Namespace, run: Path, rng: random.Random, span: float, hits: Counter[str]
) -> None:
    """Start ``run`` and kill it again and again, until it ends or all kills are spent."""
    while sum(hits.values()) < args.kills:
        # Half a run at most, so that most runs are killed more than once.
        delay = rng.uniform(0.0, span / 2)
        if attempt(partial(work, args, run), delay):
            return
        finish(partial(check_visible, run), f"reading {run} after a kill")
        where = position(run, args.rounds)
        hits[where] += 1
        print(f"kill {sum(hits.values())} after {delay:.2f} s: {where}", flush=True)
    finish(partial(work, args, run), f"resuming {run} after the last kill")


def compare(run: Path, expected: Path, args: argparse.Namespace) -> None:
    """Assert that a resumed run equals the uninterrupted one."""
    files = [sorted(p.relative_to(r) for p in r.rglob("*") if p.is_file()) for r in (run, expected)]
    assert files[0] == files[1], f"files differ: {set(files[0]) ^ set(files[1])}"
    for number in range(1, args.rounds + 1):
        folder, reference = (r / f"round-{number}" for r in (run, expected))
        paths = pq.read_table(folder / "paths.parquet", columns=["question_id", "path"]).to_pylist()
        found = Counter((row["question_id"], row["path"]) for row in paths)
        assert len(found) == args.questions * args.paths, "paths were lost"
        assert set(found.values()) == {1}, "paths were duplicated"
        for name in TABLES:
            tables = [pq.read_table(side / name) for side in (folder, reference)]
            assert tables[0].equals(tables[1]), f"{name} differs"
        a, b = (
            load_file(side / "checkpoint" / "model.safetensors") for side in (folder, reference)
        )
        assert a.keys() == b.keys()
        worst = max(float((a[name] - b[name]).abs().max()) for name in a)
        assert worst <= args.tolerance, f"weights differ by {worst:.3g}"
        print(f"  round {number}: same paths, votes, examples; weights within {worst:.2g}")


def main() -> None:
    args = arguments()
    rng = random.Random(args.seed)
    folder = args.work or Path(tempfile.mkdtemp(prefix="kill-resume-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {args.seed}; runs in {folder}", flush=True)
    expected = folder / "uninterrupted"
    began = time.perf_counter()
    finish(partial(work, args, expected), "the uninterrupted run")
    span = time.perf_counter() - began
    print(f"uninterrupted run: {span:.1f} s", flush=True)
    hits: Counter[str] = Counter()
    runs = 0
    while sum(hits.values()) < args.kills:
        run = folder / f"killed-{runs}"
        kill_until_done(args, run, rng, span, hits)
        finish(partial(compare, run, expected, args), f"comparing {run}")
        runs += 1
    seconds = time.perf_counter() - began
    print(f"{args.kills} kills in {runs} runs, {seconds:.0f} s: all artifacts equal")
    if args.work is None:
        shutil.rmtree(folder)
    outcome: dict[str, Any] = {
        "kills": args.kills,
        "runs": runs,
        "hits": hits,
        "seed": args.seed,
        "seconds": seconds,
        "uninterrupted_seconds": span,
        "equal": True,
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
