"""Linear layer over packed weights, float32, bfloat16 and int8, against torch's own of these kinds.

Every call uses the next of several copies of the weights, so that they come from memory as the
layers of a model do. torch's int8 linears quantise rows as these do; torch._int_mm multiplies
integers and does nothing else.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _harness import start
from _ops import DTYPES, check, fill_sizes, finish, parser

from fastsi.ops import linear, pack_weight

SIZES = {
    "rows": (64, 4, "rows"),
    "inputs": (576, 40, "input features"),
    "outputs": (3072, 48, "output features"),
    "megabytes": (64, 1, "float32 weights to go through, copies included"),
}
BACKENDS = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}
INT8_ALLOWED = 0.03  # largest difference of an int8 result, as a share of the largest value
BF16_ALLOWED = 0.01  # the same in bfloat16; torch rounds the result too

Call = Callable[[], tuple[torch.Tensor]]


def in_turn(calls: list[Callable[[], torch.Tensor]]) -> Call:
    """The next of the calls at every call."""
    turn = itertools.cycle(calls)
    return lambda: (next(turn)(),)


def torch_int8(engine: str, x: torch.Tensor, weights: list[torch.Tensor]) -> Call | None:
    """torch's dynamically quantised linear, weights per channel, or None without this engine."""
    if engine not in torch.backends.quantized.supported_engines:
        return None
    torch.backends.quantized.engine = engine
    made = []
    for weight in weights:
        plain = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        plain.weight = torch.nn.Parameter(weight)
        plain.qconfig = torch.ao.quantization.per_channel_dynamic_qconfig
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the module is deprecated, its kernels are not
            made.append(torch.ao.nn.quantized.dynamic.Linear.from_float(plain))

    def call(layer: torch.nn.Module) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            torch.backends.quantized.engine = engine
            return layer(x)  # type: ignore[no-any-return]

        return run

    return in_turn([call(layer) for layer in made])


def integers_only(x: torch.Tensor, weights: list[torch.Tensor]) -> Call | None:
    """torch._int_mm, which takes more than 16 rows and sizes that are multiples of 8."""
    if x.shape[0] <= 16 or x.shape[1] % 8 or weights[0].shape[0] % 8:
        return None
    rows = (x * 127 / x.abs().max()).round().to(torch.int8)
    columns = [(w * 127 / w.abs().max()).round().to(torch.int8).t() for w in weights]
    return in_turn([lambda w=w: torch._int_mm(rows, w) for w in columns])


def main() -> None:
    """Check, time, print."""
    args = parser(__doc__, **SIZES).parse_args()
    start(args)
    if args.device == "cpu" and args.dtype != "float32":
        raise SystemExit(f"--dtype={args.dtype}: rows are float32 on a CPU")
    sizes = fill_sizes(args)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sizes["rows"], sizes["inputs"], generator=generator)
    weight = torch.randn(sizes["outputs"], sizes["inputs"], generator=generator)
    x, weight = (tensor.to(args.device, DTYPES[args.dtype]) for tensor in (x, weight))
    weights = [weight.clone() for _ in range(max(1, (sizes["megabytes"] << 20) // weight.nbytes))]
    out = x.new_empty(sizes["rows"], sizes["outputs"])

    def packed(mode: str, backend: str) -> Call:
        made = [pack_weight([each], mode=mode) for each in weights]
        return in_turn([lambda p=p: linear(x, p, out=out, backend=backend) for p in made])

    exact: dict[str, Call] = {
        "torch": in_turn([lambda w=w: torch.nn.functional.linear(x, w) for w in weights]),
    }
    exact |= {name: packed("fp32", name) for name in BACKENDS[args.device]}
    found: dict[str, Call | None] = {}
    if args.device == "cpu":
        engines = {f"torch-{name}": torch_int8(name, x, weights) for name in ("fbgemm", "onednn")}
        found = {"cpu-int8": packed("int8", "cpu"), **engines}
    rounded = {name: run for name, run in found.items() if run is not None}
    halves: dict[str, Call] = {}
    if args.device == "cpu":
        rows, columns = x.bfloat16(), [w.bfloat16() for w in weights]
        halves["torch-bf16"] = in_turn(
            [lambda w=w: torch.nn.functional.linear(rows, w) for w in columns]
        )
        halves["cpu-bf16"] = packed("bf16", "cpu")
    truth = (torch.nn.functional.linear(x.double(), weight.double()),)
    differences = check(exact, truth, DTYPES[args.dtype])
    differences |= check(rounded, truth, DTYPES[args.dtype], allowed=INT8_ALLOWED)
    differences |= check(halves, truth, DTYPES[args.dtype], allowed=BF16_ALLOWED)
    product = integers_only(x, weights) if args.device == "cpu" else None
    integers = {} if product is None else {"torch-int_mm": product}
    finish(
        args,
        "linear",
        sizes | {"copies": len(weights)},
        exact | halves | rounded | integers,
        rows=sizes["rows"],
        flops=2.0 * sizes["rows"] * weight.numel(),
        moved=float(weight.nbytes + x.nbytes + out.nbytes),
        note=f"weights and rows read once, results written once; rates of {args.dtype}",
        differences=differences,
    )


if __name__ == "__main__":
    main()
