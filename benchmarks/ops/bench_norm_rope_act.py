"""What stands between the products of a layer: RMSNorm, RoPE with its write, gated activation."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _harness import start
from _ops import DTYPES, GPU_BACKENDS, Tensors, check, fill_sizes, finish, parser

from fastsi.ops import act_mul, rms_norm, rope_kv_write

SIZES = {
    "rows": (256, 8, "rows of a step"),
    "hidden": (576, 64, "size of a row"),
    "intermediate": (1536, 128, "width of the gated unit"),
    "q_heads": (9, 4, "query heads"),
    "kv_heads": (3, 2, "key/value heads"),
    "head_dim": (64, 16, "size of a head"),
}
PAGE_SIZE = 16


def main() -> None:
    """Check, time, print."""
    args = parser(__doc__, **SIZES).parse_args()
    start(args)
    sizes = fill_sizes(args)
    dtype = DTYPES[args.dtype]
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        made = torch.randn(shape, generator=generator, dtype=torch.float64)
        return made.to(args.device, dtype)

    rows, hidden, dim = sizes["rows"], sizes["hidden"], sizes["head_dim"]
    heads = [sizes["q_heads"], sizes["kv_heads"], sizes["kv_heads"]]
    x, old, weight = normal(rows, hidden), normal(rows, hidden), normal(hidden)
    gate, up = normal(rows, sizes["intermediate"]), normal(rows, sizes["intermediate"])
    fused = normal(rows, sum(heads), dim)
    angle = torch.rand(rows, dim // 2, generator=generator, dtype=torch.float64) * 100
    cos, sin = (torch.cat([t, t], -1).to(args.device, dtype) for t in (angle.cos(), angle.sin()))
    pages = -(-rows // PAGE_SIZE)
    cache = torch.zeros(2, pages, heads[1], PAGE_SIZE, dim, dtype=dtype, device=args.device)
    slots = torch.arange(rows, device=args.device)

    def run(backend: str, wide: bool = False) -> Tensors:
        def own(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.double() if wide else tensor

        sums, keys = own(old).clone(), own(cache).clone()
        q, k, v = own(fused).clone().split(heads, dim=1)
        normed = rms_norm(own(x), own(weight), 1e-5, residual=sums, backend=backend)
        rope_kv_write(q, k, v, own(cos), own(sin), keys[0], keys[1], slots, backend=backend)
        return normed, sums, q, keys, act_mul(own(gate), own(up), backend=backend)

    def plain() -> Tensors:
        """The calls a transformers layer makes."""
        sums = old + x
        normed = F.rms_norm(sums, (hidden,), weight, 1e-5)
        q, k, v = fused.split(heads, dim=1)
        turned = []
        for part in (q, k):
            low, high = part.chunk(2, dim=-1)
            turned.append(part * cos[:, None] + torch.cat([-high, low], -1) * sin[:, None])
        keys = cache.clone()
        keys[0, slots // PAGE_SIZE, :, slots % PAGE_SIZE] = turned[1]
        keys[1, slots // PAGE_SIZE, :, slots % PAGE_SIZE] = v
        return normed, sums, turned[0], keys, F.silu(gate) * up

    providers = {
        "torch": plain,
        "reference": lambda: run("reference"),
        **{name: (lambda name=name: run(name)) for name in GPU_BACKENDS[args.device]},
    }
    differences = check(providers, run("reference", wide=True), dtype)
    item = dtype.itemsize
    moved = item * (4 * x.numel() + 2 * fused.numel() + 2 * cos.numel() + 3 * gate.numel())
    finish(
        args,
        "norm_rope_act",
        sizes,
        providers,
        rows=rows,
        flops=0.0,
        moved=float(moved),
        note="every input read once and every result written once",
        differences=differences,
    )


if __name__ == "__main__":
    main()
