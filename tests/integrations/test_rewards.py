"""Reward faces: the call shapes of TRL and verl, label-free rewards, threads without signals."""

from __future__ import annotations

import concurrent.futures
import inspect
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsi.errors import ConfigError
from fastsi.integrations import math_verify
from fastsi.integrations.rewards import (
    accuracy_reward,
    completion_text,
    compute_score,
    compute_score_record,
    gold_keys,
    majority_reward,
    with_options,
)


def says(answer: object) -> str:
    return f"Let me think. The answer is {answer}."


def chat(text: object) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


def as_trl_calls(reward: Any, prompts: list[Any], completions: list[Any], **columns: Any) -> Any:
    """`GRPOTrainer._calculate_rewards` of TRL 1.16: keywords alone, and a reward per completion."""
    logged: dict[str, list[Any]] = {}
    found = reward(
        prompts=prompts,
        completions=completions,
        completion_ids=[[1, 2, 3] for _ in completions],
        trainer_state=object(),
        log_extra=logged.__setitem__,
        log_metric=lambda name, value: None,
        **columns,
    )
    assert len(found) == len(prompts)
    assert all(reward is None or type(reward) is float for reward in found)
    assert all(len(column) == len(prompts) for column in logged.values())
    return found


@pytest.mark.parametrize("wrap", [str, chat])
def test_accuracy_as_trl_calls_it(wrap: Any) -> None:
    completions = [says(r"\frac{1}{3}"), says("0.5"), r"$\boxed{1/3}$", "I do not know.", says(7)]
    solution = [r"\frac{1}{3}", r"\frac{1}{3}", "We add.\n#### 1/3", "18", ""]
    found = as_trl_calls(
        accuracy_reward,
        ["Q"] * 5,
        [wrap(each) for each in completions],
        solution=solution,
        difficulty=[1, 2, 3, 4, 5],
    )
    assert found == [1.0, 0.0, 1.0, 0.0, None]


def test_golds_in_every_form() -> None:
    assert gold_keys("Natalia sold 48/2 = <<48/2=24>>24 clips.\n#### 72") == ("num:72",)
    assert gold_keys(r"So we get $\boxed{2\sqrt{3}}$.") == gold_keys(r"2\sqrt{3}")
    assert gold_keys(["18", "18.0", "eighteen", "Paris"]) == ("num:18", "text:paris")
    assert gold_keys(18) == ("num:18",)  # type: ignore[arg-type]
    assert gold_keys([]) == gold_keys("") == gold_keys(" \n") == ()
    assert gold_keys("The proof is left to the reader,\nand is not short.") == ()
    assert accuracy_reward([says(18), says("Rome")], [["17", "18"], ["Paris"]]) == [1.0, 0.0]


def test_what_a_completion_says() -> None:
    turns = [
        {"role": "assistant", "content": says(1)},
        {"role": "tool", "content": says(2)},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "The answer "}, {"text": "is 3."}, {"type": "x"}],
        },
        {"role": "user", "content": says(4)},
    ]
    assert completion_text(turns) == "The answer is 3."
    assert completion_text([]) == completion_text([{"role": "user", "content": "x"}]) == ""
    assert completion_text([{"role": "assistant", "content": None, "tool_calls": []}]) == ""
    with pytest.raises(ConfigError, match=r"completion=.*chat messages"):
        completion_text(["The answer is 3."])  # type: ignore[list-item]


def test_compute_score_as_verl_calls_it() -> None:
    names = list(inspect.signature(compute_score).parameters)
    assert names[:4] == ["data_source", "solution_str", "ground_truth", "extra_info"]
    called = {"solution_str": says(1000), "ground_truth": "1,000", "extra_info": {"index": 3}}
    assert compute_score(data_source="openai/gsm8k", **called) == 1.0  # type: ignore[arg-type]
    assert compute_score("lighteval/MATH", says(1000), "1,001") == 0.0
    assert compute_score("aime", says(7), ["8", "7"], None, memory_limit_mb=1024) == 1.0
    assert compute_score(None, "no idea", "") == 0.0
    assert compute_score_record("x", says(7), "7") == {"score": 1.0, "acc": True, "pred": "num:7"}
    assert compute_score_record("x", "no idea", "7") == {"score": 0.0, "acc": False, "pred": ""}


def test_majority_as_trl_calls_it() -> None:
    # Two prompts of four completions, as TRL repeats them; the third column needs no label.
    prompts = ["a"] * 4 + ["b"] * 4
    completions = [*map(says, (3, 3, 4)), "hm", *map(says, ("yes", "no", "no", "Yes"))]
    rewards = as_trl_calls(majority_reward, prompts, completions)
    assert rewards[:4] == [1.0, 1.0, 0.0, 0.0]
    assert rewards[4:] == [1.0, 0.0, 0.0, 1.0]  # a tie goes to the answer that came first
    messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
    wrapped = [chat(each) for each in completions]
    assert as_trl_calls(majority_reward, messages, wrapped) == rewards


def test_options_of_majority() -> None:
    completions, prompts = [says(3), says(3), says(4), "hm"], ["q"] * 4
    assert majority_reward(completions, prompts, min_share=0.5) == [1.0, 1.0, 0.0, 0.0]
    assert majority_reward(completions, prompts, min_share=0.51) == [0.0] * 4
    assert majority_reward(completions, prompts, soft=True) == [0.5, 0.5, 0.25, 0.0]
    assert majority_reward(["hm", ""], ["q", "q"], soft=True) == [0.0, 0.0]
    strict = with_options(majority_reward, min_share=0.51)
    assert strict.__name__ == "majority_reward"
    assert as_trl_calls(strict, prompts, completions) == [0.0] * 4
    assert with_options(majority_reward, name="soft_share", soft=True).__name__ == "soft_share"
    with pytest.raises(ConfigError, match="min_share=1"):
        majority_reward([], [], min_share=1.5)
    with pytest.raises(ConfigError, match="prompts: 1 values for 2"):
        majority_reward(["", ""], ["q"])
    with pytest.raises(ConfigError, match="solution: 1 values for 2"):
        accuracy_reward(["", ""], ["3"])


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([None, 1, 2, 3])), max_size=20),
    st.randoms(use_true_random=False),
)
def test_groups_stand_anywhere(paths: list[tuple[str, int | None]], random: Any) -> None:
    """The same rewards for the same path, however the groups are mixed (each in its own order)."""

    def rewards(order: list[int]) -> dict[int, float | None]:
        texts = ["hm" if paths[i][1] is None else says(paths[i][1]) for i in order]
        found = majority_reward(texts, [paths[i][0] for i in order])
        return dict(zip(order, found, strict=True))

    straight = list(range(len(paths)))
    by_prompt = sorted(straight, key=lambda i: paths[i][0])
    assert rewards(straight) == rewards(by_prompt)
    for prompt in "abc":
        own = [i for i in straight if paths[i][0] == prompt]
        counts = Counter(paths[i][1] for i in own if paths[i][1] is not None)
        earned = [i for i in own if rewards(straight)[i] == 1.0]
        assert len(earned) == max(counts.values(), default=0)
        assert len({paths[i][1] for i in earned}) <= 1


def test_many_threads_and_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a reward set a signal")

    for name in ("signal", "alarm", "setitimer"):
        monkeypatch.setattr(signal, name, refuse)

    def work(seed: int) -> list[float | None]:
        return accuracy_reward([says(seed), says(seed + 1)], [str(seed)] * 2)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(200))) == [[1.0, 0.0]] * 200


def test_rewards_need_no_torch() -> None:
    script = (
        "import sys\nimport fastsi.integrations.rewards\nassert 'torch' not in sys.modules\n"
        "import fastsi.integrations.math_verify\nassert 'sympy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("gold", "target", "equal"),
    [
        (r"$\frac{1}{2}$", r"So $\boxed{0.5}$", True),
        ("18", "The total is 18 apples in all", True),
        ("x^2+1", "$x^2 + 1$", True),
        ("42", "I do not know.", False),
        ("3", "The answer is 18. Let me double-check: 3+4=7.", False),
        (r"[1,2)", r"\boxed{(1,2)}", False),
    ],
)
def test_math_verify_faces(gold: str, target: str, equal: bool) -> None:
    parsed = math_verify.parse(gold), math_verify.parse(target, parsing_timeout=None)
    assert isinstance(parsed[0], list)
    assert math_verify.verify(*parsed, timeout_seconds=None) is equal
    assert math_verify.verify(parsed[1], parsed[0]) is equal
    assert math_verify.verify(parsed[0], parsed[0][0])
    assert math_verify.parse("  ") == []
    assert not math_verify.verify([], [])


def test_the_example_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    section = text.partition("## From your trainer\n")[2].partition("\n## ")[0]
    code = section.partition("```python\n")[2].partition("```")[0]
    printed = section.partition("```\n[")[2].partition("\n```")[0]
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == "[" + printed
