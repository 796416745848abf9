"""Symbolic merge: what algebra proves, time limits, dying workers, threads and forks."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from fastsi.errors import ConfigError
from fastsi.integrations.rewards import accuracy_reward, compute_score, majority_reward
from fastsi.vote import SymbolicMerger, merged_keys, symbolic, vote

HANGS = ["text:10000000!x", "text:10000001!/10000001x"]
"""Equal, by a product of ten million factors."""


# Limits are long wherever algebra must come to an end: the machine may be busy.
PATIENT = {"pair_seconds": 300.0, "group_seconds": 3000.0}


@pytest.fixture(scope="module")
def merger() -> Iterator[SymbolicMerger]:
    with SymbolicMerger(**PATIENT) as made:
        yield made


def hasten(merger: SymbolicMerger, keys: list[str], pair: float, group: float) -> None:
    """Short time limits from here on; what ``keys`` are by themselves is known by then."""
    for key in keys:
        assert merger._ask((key.removeprefix("text:"),), math.inf)
    merger._pair_seconds, merger._group_seconds = pair, group


def opaque(bodies: tuple[str, ...]) -> list[str]:
    """Keys as they would be if the rules of `fastsi.vote.key` left these answers opaque."""
    return [f"text:{body}" for body in bodies]


@pytest.mark.parametrize(
    "answers",
    [
        (r"2\sqrt{3}", r"\sqrt{12}", "2sqrt(3)"),
        ("x^2+2x+1", "(x+1)^2", "(1+x)(x+1)"),
        (r"\frac{\pi}{2}", "pi/2"),
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
        (r"\frac{n(n+1)}{2}", "n(n+1)/2", "n^2/2 + n/2"),
        ("1.5x", r"\frac{3x}{2}", "6x/4"),
        ("2ab", "2ba"),
        ("x > 3", "3 < x"),
        ("sin(x)^2+cos(x)^2", r"\sqrt{1}"),
    ],
)
def test_equal_expressions_merge(merger: SymbolicMerger, answers: tuple[str, ...]) -> None:
    keys = opaque(answers)
    for order in itertools.permutations(keys):
        assert len(set(merged_keys(order, merger))) == 1
        assert merged_keys(order, merger)[0] == min(keys, key=lambda key: (len(key), key))


@pytest.mark.parametrize(
    "answers",
    [
        (r"\sqrt{12}", r"\sqrt{13}"),
        (r"\sqrt{x^2}", "x", "|x|"),
        ("paris", "pairs"),  # words are no products of letters
        ("on", "the no"),
        ("x > 3", r"x \ge 3", "x < 3"),
        ("x^2+1", "y^2+1"),
        # Closer than any rounding to decimals would tell.
        (r"\sqrt{2}x", r"1.41421356237309x"),
        (r"\frac{\pi}{2}x", r"1.5707963267949x"),
        (r"\text{x+1}", r"\text{1+x, roughly}"),
    ],
)
def test_what_is_not_proved_equal_stays_apart(
    merger: SymbolicMerger, answers: tuple[str, ...]
) -> None:
    keys = opaque(answers)
    assert merged_keys(keys, merger) == keys


def test_other_kinds_are_left_alone(merger: SymbolicMerger) -> None:
    keys = ["num:2", None, "text:\\sqrt{4}", "choice:b", "set:1, 2", "text:\\sqrt{16}/2"]
    assert merged_keys(keys, merger) == [*keys[:5], "text:\\sqrt{4}"]
    assert merged_keys([], merger) == []


def test_votes_and_rewards_merge_on_request(
    merger: SymbolicMerger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbolic, "_shared", merger)
    texts = [r"The answer is $2\sqrt{3}$.", r"$\boxed{\sqrt{12}}$", "The answer is 3.", "#### 3"]
    texts.append(r"\boxed{2\sqrt 3 + 0}")
    assert vote(texts).winner == "num:3"
    outcome = vote(texts, symbolic=True)
    assert (outcome.winner, outcome.votes) == ("text:2\\sqrt{3}", 5)
    assert outcome.counts == {"text:2\\sqrt{3}": 3, "num:3": 2}
    assert outcome.keys[:2] == ("text:2\\sqrt{3}",) * 2
    assert majority_reward(texts, ["q"] * 5, symbolic=True) == [1.0, 1.0, 0.0, 0.0, 1.0]
    gold = [r"\sqrt{48}/2"]
    assert accuracy_reward(texts[:3], gold * 3, symbolic=True) == [1.0, 1.0, 0.0]
    assert accuracy_reward(texts[:3], gold * 3) == [0.0, 0.0, 0.0]
    assert compute_score("math", texts[0], gold, symbolic=True) == 1.0


def test_a_hanging_pair_times_out_and_merges_nothing() -> None:
    with SymbolicMerger(**PATIENT) as merger:
        easy = {"text:x+x": "text:2x", "text:x^2": "text:x*x"}
        assert merger.merge(["text:2x", "text:x+x", "text:x^2", "text:x*x"]) == easy
        hasten(merger, HANGS, pair=0.5, group=3000.0)
        assert merger.merge([*HANGS, "text:x^2", "text:x*x"]) == {"text:x^2": "text:x*x"}
        kills = merger.kills
        assert 1 <= kills <= 3  # each of the two with x^2, and with the other
        # They are not tried again, and what was known still is.
        assert merger.merge(HANGS) == {}
        assert merger.merge(["text:x+x", "text:2x"]) == {"text:x+x": "text:2x"}
        assert merger.kills == kills


def test_a_question_has_a_time_limit() -> None:
    """Each of ten is to be compared with those before: 45 pairs, and time for one or two."""
    many = [f"text:1{i}000000!x" for i in range(10)]
    with SymbolicMerger(**PATIENT) as merger:
        hasten(merger, many, pair=1.0, group=1.5)
        assert merger.merge(many) == {}
        assert 1 <= merger.kills <= 3


def test_a_dead_worker_is_replaced() -> None:
    with SymbolicMerger(**PATIENT) as merger:
        assert merger.merge(["text:2x", "text:x+x"])
        assert merger._worker is not None
        first = merger._worker._process
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        # Whatever was asked of the dead one is not merged; the next question finds a new one.
        assert merger.merge(["text:3x", "text:x+x+x"]) in ({}, {"text:x+x+x": "text:3x"})
        assert merger.kills == 1
        assert merger.merge(["text:4x", "text:x+3x"]) == {"text:x+3x": "text:4x"}
        assert merger._worker._process.pid != first.pid


def test_a_worker_killed_while_it_computes() -> None:
    with SymbolicMerger(**PATIENT) as merger:
        merger.merge(["text:2x", "text:x+x"])
        assert merger._worker is not None
        process = merger._worker._process
        timer = threading.Timer(0.3, process.kill)
        timer.start()
        began = time.monotonic()
        assert merger.merge(HANGS) == {}
        assert time.monotonic() - began < PATIENT["pair_seconds"] / 2  # noticed, not timed out
        timer.join()
        assert merger.kills == 1


def test_many_threads_share_a_worker() -> None:
    with SymbolicMerger(**PATIENT) as merger:

        def work(n: int) -> dict[str, str]:
            assert threading.current_thread() is not threading.main_thread()
            return merger.merge([f"text:{n + 2}x", f"text:{n}x+2x"])

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(work, range(3, 43)))
        assert found == [{f"text:{n}x+2x": f"text:{n + 2}x"} for n in range(3, 43)]
        assert merger.kills == 0


def test_no_process_is_left_behind() -> None:
    script = (
        "from fastsi.vote import merged_keys, symbolic\n"
        "symbolic._shared = symbolic.SymbolicMerger(pair_seconds=300.0, group_seconds=3000.0)\n"
        "assert len(set(merged_keys(['text:2x', 'text:x+x']))) == 1\n"
        "print(symbolic.shared_merger()._worker._process.pid)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", script], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(symbolic, "_shared", None)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "math_verify" else real(name)
    )
    with pytest.raises(ConfigError, match=r"needs math_verify; pip install 'fastsi\[symbolic\]'"):
        vote(["The answer is 3."], symbolic=True)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="pair_seconds=0"):
        SymbolicMerger(pair_seconds=0)
