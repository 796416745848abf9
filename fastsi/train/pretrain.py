"""Pretrain the bundled base model from scratch: ``python -m fastsi.train.pretrain --out DIR``.

The text is synthetic and of unequal care, as the web's is: most authors answer at once, some skip
steps, some work carefully, and nothing in the question tells which. A model of this text draws a
way of working before it draws an answer. Careless paths scatter over many answers, careful ones
agree, and voting finds what greedy decoding misses.

Documents are packed into rows of fixed length; a token sees its own document alone.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fastsi.data.stories import Care, Story, make_problems
from fastsi.data.templates import Template
from fastsi.errors import ConfigError

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
IGNORED = -100
"""Label of positions that carry no loss."""
_SAMPLE = 20_000
"""Stories from which the tokenizer is trained and the documents' length is estimated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig:
    """Everything that decides the base model's weights."""

    seed: int = 0
    """Seed of the stories, the documents' form and the initial weights."""
    steps: int = 1500
    """Optimizer steps."""
    batch_rows: int = 32
    """Packed rows per step."""
    row_tokens: int = 256
    """Tokens per row; a longer document is dropped."""
    learning_rate: float = 3e-3
    """Peak, reached after the warm-up; falls to a tenth along a cosine."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    weight_decay: float = 0.1
    """AdamW's, on matrices alone."""
    at_once: float = 0.50
    """Share of solutions that state the answer without working."""
    skipping: float = 0.15
    """Share of solutions with one equation; the rest work carefully."""
    step_by_step: float = 0.3
    """Share of solutions announced by "Let's think step by step.", whatever follows."""
    pages: float = 0.1
    """Share of documents that hold two to four problems, so that few-shot prompts are familiar."""
    vocab_size: int = 1024
    """Upper limit of the tokenizer's vocabulary."""
    context_tokens: int = 1024
    """The model's longest input."""
    hidden_size: int = 128
    """Width of the residual stream."""
    intermediate_size: int = 384
    """Width of the MLPs."""
    layers: int = 4
    """Decoder layers."""
    heads: int = 4
    """Query heads."""
    kv_heads: int = 2
    """Key and value heads."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_rows", "row_tokens", "layers", "heads", "kv_heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)!r}: must be an integer >= 1")
        for name in ("at_once", "skipping", "step_by_step", "pages"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name}={getattr(self, name)!r}: must be in [0, 1]")
        if self.at_once + self.skipping > 1.0:
            raise ConfigError(
                f"at_once={self.at_once!r} and skipping={self.skipping!r}: must sum to at most 1"
            )


def documents(config: PretrainConfig, stories: Sequence[Story]) -> Iterator[str]:
    """Turn stories into documents, in order; every story is used once."""
    rng = random.Random(f"fastsi documents {config.seed}")
    position = 0
    while position < len(stories):
        size = rng.randint(2, 4) if rng.random() < config.pages else 1
        page = stories[position : position + size]
        yield "\n\n".join(_problem_text(config, rng, story) for story in page)
        position += size


def _problem_text(config: PretrainConfig, rng: random.Random, story: Story) -> str:
    draw = rng.random()
    care: Care = "careful"
    if draw < config.at_once:
        care = "at_once"
    elif draw < config.at_once + config.skipping:
        care = "skipping"
    prompt = Template().prompt(
        story.question, "step_by_step" if rng.random() < config.step_by_step else "direct"
    )
    return f"{prompt} {story.solution(care)}"


def train_tokenizer(texts: Sequence[str], config: PretrainConfig) -> PreTrainedTokenizerFast:
    """Byte-level BPE with one token per digit; decoding an encoding gives the text back exactly.

    A space belongs to the word after it, so the tokens of a prompt that ends without a space are
    a prefix of the tokens of the prompt and its solution.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=2,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=config.context_tokens,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights drawn from ``config.seed``."""
    torch.manual_seed(config.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=config.context_tokens,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.generation_config = GenerationConfig(
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return model


@dataclass(slots=True)
class Batch:
    """Packed rows. B rows of T tokens; padding has document number -1."""

    input_ids: torch.Tensor
    """int64 [B, T]."""
    labels: torch.Tensor
    """int64 [B, T], shifted: the token that follows, or ``IGNORED`` where a document ends."""
    positions: torch.Tensor
    """int64 [B, T], counted from each document's start."""
    mask: torch.Tensor
    """bool [B, 1, T, T]: whether the query (third axis) sees the key (fourth)."""


def pack(encoded: Iterable[Sequence[int]], row_tokens: int) -> list[list[Sequence[int]]]:
    """Fill rows with whole documents, first come first placed; too long a document is dropped.

    Args:
        encoded: token ids of each document, end-of-sequence included.
        row_tokens: most tokens in a row.

    Returns:
        The documents of each row.
    """
    rows: list[list[Sequence[int]]] = []
    room: list[int] = []
    for ids in encoded:
        if len(ids) > row_tokens:
            continue
        # Only recent rows are tried, which keeps packing linear and wastes a few per cent.
        recent = range(max(0, len(rows) - 8), len(rows))
        row = next((r for r in recent if room[r] >= len(ids)), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(row_tokens)
        rows[row].append(ids)
        room[row] -= len(ids)
    return rows


def make_batch(rows: Sequence[Sequence[Sequence[int]]], row_tokens: int, pad: int) -> Batch:
    """Tensors of packed rows; ``pad`` is the token id that fills their ends."""
    shape = (len(rows), row_tokens)
    input_ids = torch.full(shape, pad)
    labels = torch.full(shape, IGNORED)
    positions = torch.zeros(shape, dtype=torch.long)
    document = torch.full(shape, -1)
    for r, row in enumerate(rows):
        start = 0
        for number, ids in enumerate(row):
            end = start + len(ids)
            input_ids[r, start:end] = torch.tensor(ids)
            labels[r, start : end - 1] = torch.tensor(ids[1:])
            positions[r, start:end] = torch.arange(len(ids))
            document[r, start:end] = number
            start = end
    same = document[:, :, None] == document[:, None, :]
    causal = torch.ones(row_tokens, row_tokens, dtype=torch.bool).tril()
    return Batch(input_ids, labels, positions, (same & causal)[:, None])


def learning_rate_factor(step: int, config: PretrainConfig) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then a cosine to a tenth."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.1 + 0.9 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def _optimizer(model: LlamaForCausalLM, config: PretrainConfig) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))


def fit(
    model: LlamaForCausalLM,
    batches: Iterable[Batch],
    config: PretrainConfig,
    report: Callable[[int, float], None],
) -> None:
    """Train in place, one batch per step; ``report`` gets the step and its loss in nats."""
    optimizer = _optimizer(model, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, config)
    )
    model.train()
    for step, batch in enumerate(batches):
        logits = model(
            input_ids=batch.input_ids,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            use_cache=False,
        ).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED
        )
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        report(step, loss.item())
    model.eval()


def _encode(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Iterator[list[int]]:
    """Token ids of each document and the end of sequence; a chunk at a time, to save memory."""
    texts = iter(texts)
    while chunk := list(itertools.islice(texts, 1000)):
        for ids in tokenizer(chunk)["input_ids"]:
            yield [*ids, tokenizer.eos_token_id]


def pretrain(
    config: PretrainConfig, out: str | Path, report: Callable[[int, float], None]
) -> LlamaForCausalLM:
    """Make text, tokenizer and model, train, and write a transformers model folder to ``out``.

    The weights depend on ``config`` alone (and on torch's version and thread count, in rounding).
    """
    sample = list(documents(config, make_problems("pretrain", _SAMPLE, config.seed)))
    tokenizer = train_tokenizer(sample, config)
    tokens = sum(map(len, _encode(tokenizer, sample)))
    # Enough stories to fill every row to the brim, which packing never quite does.
    needed = _SAMPLE * config.steps * config.batch_rows * config.row_tokens / tokens
    stories = make_problems("pretrain", math.ceil(1.05 * needed), config.seed)
    rows = pack(_encode(tokenizer, documents(config, stories)), config.row_tokens)
    size, pad = config.batch_rows, tokenizer.pad_token_id
    batches = (
        make_batch(rows[step * size : (step + 1) * size], config.row_tokens, pad)
        for step in range(config.steps)
    )
    model = build_model(config, tokenizer)
    fit(model, batches, config, report)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    defaults = PretrainConfig()
    parser = argparse.ArgumentParser(prog="python -m fastsi.train.pretrain", description=__doc__)
    parser.add_argument("--out", required=True, help="folder for the model; created if missing")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="default: %(default)s")
    parser.add_argument(
        "--steps", type=int, default=defaults.steps, help="optimizer steps; default: %(default)s"
    )
    options = parser.parse_args(arguments)
    config = PretrainConfig(seed=options.seed, steps=options.steps)
    start = time.perf_counter()

    def report(step: int, loss: float) -> None:
        if step % 50 == 0 or step == config.steps - 1:
            seconds = time.perf_counter() - start
            print(f"step {step:5d}/{config.steps}  loss {loss:.4f}  {seconds:6.0f} s", flush=True)

    pretrain(config, options.out, report)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
