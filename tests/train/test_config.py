"""Settings: round trip, unknown names, bad values."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fastsi.errors import ConfigError
from fastsi.train import ImproveConfig, RoundConfig, SampleConfig, SelectConfig, TrainConfig


def test_defaults_are_those_of_the_paper() -> None:
    config = ImproveConfig()
    assert (config.sample.paths, config.sample.temperature, config.sample.max_tokens) == (
        32,
        0.7,
        256,
    )
    assert (config.train.learning_rate, config.train.batch_size) == (5e-5, 32)
    assert config.start_from == "base"


def test_plain_values_round_trip() -> None:
    values: dict[str, Any] = {
        "seed": 4,
        "rounds": 2,
        "start_from": "last",
        "extractor": "boxed",
        "prompt": {"exemplars": "builtin"},
        "sample": {"paths": 8, "later_temperature": 1.2, "stop": ["\n\n", "END"]},
        "select": {"max_paths": None, "min_share": 0.5},
        "mix": {"formats": ["cot", "direct"], "shares": {"direct": 0.25}},
        "train": {"steps": 3, "mixed_precision": "bf16"},
    }
    config = ImproveConfig.from_dict(values)
    assert config.sample.stop == ("\n\n", "END")
    plain = config.to_dict()
    assert ImproveConfig.from_dict(plain) == config
    for name, value in values.items():
        inner = plain[name]
        assert {k: inner[k] for k in value} == value if isinstance(value, dict) else inner == value


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sampel": {}}, "unknown field or table 'sampel'; did you mean 'sample'"),
        ({"sample": {"pathes": 3}}, r"unknown field of \[sample\] 'pathes'; did you mean 'paths'"),
        ({"train": {"lr": 1e-4}}, r"unknown field of \[train\] 'lr'"),
        ({"train": 3}, "train=3: must be a table"),
        ({"sample": {"paths": 0}}, "paths=0"),
        ({"sample": {"paths": "many"}}, "paths='many'"),
        ({"sample": {"temperature": -0.5}}, "temperature=-0.5"),
        ({"sample": {"later_temperature": -1}}, "temperature=-1"),
        ({"sample": {"max_tokens": 0}}, "max_tokens=0"),
        ({"sample": {"top_p": 0}}, "top_p=0"),
        ({"sample": {"shard_questions": 0}}, "shard_questions=0"),
        ({"select": {"min_share": 1.5}}, "min_share=1.5"),
        ({"select": {"min_lead": -1}}, "min_lead=-1"),
        ({"select": {"max_paths": 0}}, "max_paths=0"),
        ({"train": {"steps": 0}}, "steps=0"),
        ({"train": {"steps": True}}, "steps=True"),
        ({"train": {"learning_rate": float("nan")}}, "learning_rate=nan"),
        ({"train": {"mixed_precision": "fp8"}}, "mixed_precision='fp8'"),
        ({"rounds": 0}, "rounds=0"),
        ({"start_from": "scratch"}, "start_from='scratch'"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"extractor": "boxd"}, "did you mean 'boxed'"),
        ({"mix": {"shares": {"direct": 2}}}, "shares.direct=2"),
        ({"prompt": {"style": "xml"}}, "style='xml'"),
    ],
)
def test_bad_settings_are_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ImproveConfig.from_dict(values)


def test_settings_are_frozen() -> None:
    for config in (ImproveConfig(), RoundConfig(), SampleConfig(), SelectConfig(), TrainConfig()):
        name = dataclasses.fields(config)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, name, 1)


def test_sampling_parameters_follow_the_round() -> None:
    sample = SampleConfig(paths=3, temperature=0.5, later_temperature=1.2, top_k=7)
    first = sample.params(1, stop=("\nQ:",), seed=9)
    second = sample.params(2, stop=(), seed=9)
    assert (first.n, first.temperature, first.top_k, first.seed) == (3, 0.5, 7, 9)
    assert first.stop == ("\nQ:",)
    assert second.temperature == 1.2
    assert SampleConfig(stop=("END",)).params(1, stop=("x",), seed=0).stop == ("END",)
    assert SampleConfig(stop=()).params(1, stop=("x",), seed=0).stop == ()
