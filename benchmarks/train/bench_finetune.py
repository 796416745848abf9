"""Time of one optimizer step on kept paths, by how its sequences are put into forward passes.

    python benchmarks/train/bench_finetune.py --prompt-tokens 600 --sequences 32

Half of the sequences begin with the same prompt (few-shot formats), half do not (zero-shot).
Providers:

* ``one by one``: a forward pass per sequence, the definition;
* ``padded``: all in passes of the same number of sequences in the order they came, padded;
* ``sorted``: sorted by length and cut by a token budget;
* ``fastsi``: the same with the shared prompt computed once per pass (what rounds do).

All four compute the same gradient, which is checked before the clock starts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from _harness import Floor, Result, add_arguments, machine_rates, measure, report, start
from transformers import LlamaConfig, LlamaForCausalLM

from fastsi.train.batches import Encoded, MicroBatch, micro_batches, pad
from fastsi.train.loss import target_nll

VOCABULARY = 512


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=32, help="per step (default: 32)")
    parser.add_argument(
        "--prompt-tokens", type=int, default=600, help="shared few-shot prompt (default: 600)"
    )
    parser.add_argument(
        "--own-tokens", type=int, default=150, help="longest question and target (default: 150)"
    )
    parser.add_argument("--hidden", type=int, default=256, help="model width (default: 256)")
    parser.add_argument("--layers", type=int, default=6, help="model depth (default: 6)")
    parser.add_argument(
        "--micro-batch-tokens", type=int, default=4096, help="budget of a pass (default: 4096)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and tokens (default: 0)")
    add_arguments(parser)
    args = parser.parse_args()
    if args.quick:
        args.sequences, args.prompt_tokens, args.own_tokens = 8, 64, 24
        args.hidden, args.layers = 32, 2
    for name in ("sequences", "prompt_tokens", "own_tokens", "hidden", "layers"):
        if getattr(args, name) < 2:
            raise SystemExit(
                f"--{name.replace('_', '-')}={getattr(args, name)}: must be at least 2"
            )
    return args


def make_model(args: argparse.Namespace) -> LlamaForCausalLM:
    torch.manual_seed(args.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=args.hidden,
            intermediate_size=3 * args.hidden,
            num_hidden_layers=args.layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=args.prompt_tokens + args.own_tokens,
        )
    )


def make_sequences(args: argparse.Namespace) -> list[Encoded]:
    """Lengths spread as those of paths do: from a quarter of the longest to the longest."""
    draw = torch.Generator().manual_seed(args.seed)
    prompt = torch.randint(3, VOCABULARY, (args.prompt_tokens,), generator=draw).tolist()
    found = []
    for index in range(args.sequences):
        own = int(torch.randint(args.own_tokens // 4 + 2, args.own_tokens + 1, (), generator=draw))
        tokens = torch.randint(3, VOCABULARY, (own,), generator=draw).tolist()
        start_tokens = prompt if index % 2 else []
        split = len(start_tokens) + max(1, own // 3)
        found.append(Encoded((*start_tokens, *tokens), split, "shot" if index % 2 else "zero"))
    return found


def make_providers(
    args: argparse.Namespace, sequences: list[Encoded]
) -> dict[str, list[MicroBatch]]:
    """The forward passes of each way."""
    budget = args.micro_batch_tokens
    sorted_passes = micro_batches(sequences, budget, share_prefix=False)
    size = -(-len(sequences) // len(sorted_passes))
    return {
        "one by one": micro_batches(sequences, 1, share_prefix=False),
        "padded": [pad(sequences[i : i + size], 0) for i in range(0, len(sequences), size)],
        "sorted": sorted_passes,
        "fastsi": micro_batches(sequences, budget, share_prefix=True),
    }


def step(model: LlamaForCausalLM, passes: list[MicroBatch], targets: int) -> Callable[[], None]:
    """Forward and backward of a step; gradients stay on the model until the next call."""

    def run() -> None:
        model.zero_grad(set_to_none=True)
        for batch in passes:
            (target_nll(model, batch) / targets).backward()

    return run


def gradient(model: LlamaForCausalLM) -> torch.Tensor:
    return torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])


def check(
    model: LlamaForCausalLM, providers: dict[str, Callable[[], None]], baseline: str
) -> dict[str, float]:
    """Largest difference of each gradient from the baseline's, as a share of its largest."""
    providers[baseline]()
    expected = gradient(model)
    found = {}
    for name, run in providers.items():
        run()
        found[name] = float((gradient(model) - expected).abs().max() / expected.abs().max())
        if found[name] > 1e-3:
            raise SystemExit(f"{name}: the gradient differs by {found[name]:.3g}")
    return found


def main() -> None:
    args = arguments()
    start(args)
    model = make_model(args)
    sequences = make_sequences(args)
    targets = sum(len(s.ids) - s.prompt_tokens for s in sequences)
    passes = make_providers(args, sequences)
    providers = {name: step(model, batches, targets) for name, batches in passes.items()}
    agreement = check(model, providers, "one by one")
    rates = machine_rates(quick=args.quick)
    # Every token that differs from all earlier sequences must be computed once: forward 2 and
    # backward 4 operations per weight. Attention, head and norms are left out.
    tokens = sum(len(s.ids) for s in sequences)
    least = tokens - (args.sequences // 2 - 1) * args.prompt_tokens
    weights = sum(p.numel() for p in model.model.layers.parameters())
    flops = 6.0 * weights * least
    result = Result(
        workload={
            name: getattr(args, name)
            for name in ("sequences", "prompt_tokens", "own_tokens", "hidden", "layers", "seed")
        },
        timings=measure(providers, repeats=args.repeats),
        baseline="one by one",
        tokens=tokens,
        floor=Floor(
            seconds=flops / rates.flops_per_s,
            flops=flops,
            bytes=0.0,
            rates=rates,
            note="linear layers, distinct tokens",
        ),
        details={
            "gradient_difference": agreement,
            "passes": {name: len(batches) for name, batches in passes.items()},
            "computed_tokens": {
                name: sum(b.ids.numel() + b.prefix.numel() for b in batches)
                for name, batches in passes.items()
            },
        },
    )
    report(result, title="one optimizer step", json_out=args.json_out)


if __name__ == "__main__":
    main()
