"""The engine: draws many paths per prompt from a transformers model with a shared-prefix KV cache.

`LLM.generate` (llm.py) tokenises, `Engine.step` (core.py) runs one step: `Scheduler.schedule`
(scheduler.py) chooses rows, `ModelRunner.forward` (model_runner.py) calls the model, whose
attention arrives in attention.py, `Sampler.sample` (sampler.py) draws, `Scheduler.commit` records.
"""

from fastsi.engine.config import EngineConfig
from fastsi.engine.control import GroupController
from fastsi.engine.llm import LLM
from fastsi.engine.stats import EngineStats

__all__ = ["LLM", "EngineConfig", "EngineStats", "GroupController"]
