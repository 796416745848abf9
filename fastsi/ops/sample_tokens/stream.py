"""Random streams: a key per path, and Philox4x32-10 uniforms counted by position."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

import torch

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def prompt_digest(token_ids: Sequence[int]) -> bytes:
    """16-byte digest of a prompt's tokens: equal for equal prompts, reusable in `path_key`."""
    data = array("q", token_ids)
    return hashlib.blake2b(data.tobytes(), digest_size=16, person=b"fastsi-prompt").digest()


def path_key(seed: int, prompt: Sequence[int] | bytes, path_index: int) -> int:
    """64-bit key of a path's random stream, as a signed integer.

    Args:
        seed: any signed 64-bit integer.
        prompt: the prompt's token ids, or their `prompt_digest`.
        path_index: 0-based index of the path among all paths of the prompt in the run.
    """
    digest = prompt if isinstance(prompt, bytes) else prompt_digest(prompt)
    words = seed.to_bytes(8, "little", signed=True) + path_index.to_bytes(8, "little")
    key = hashlib.blake2b(digest + words, digest_size=8, person=b"fastsi-path").digest()
    return int.from_bytes(key, "little", signed=True)


def philox(counter: Sequence[torch.Tensor], key: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Philox4x32-10 (Salmon et al., 2011) on int64 tensors that hold 32-bit words.

    Args:
        counter: four tensors, low word first.
        key: two tensors, low word first.

    Returns:
        Four tensors of 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap, which keeps all 64 bits; the mask undoes the shift's sign.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (p1 >> 32 & _LOW) ^ c1 ^ k0,
            p1 & _LOW,
            (p0 >> 32 & _LOW) ^ c3 ^ k1,
            p0 & _LOW,
        )
        k0, k1 = k0 + _KEY_STEPS[0] & _LOW, k1 + _KEY_STEPS[1] & _LOW
    return [c0, c1, c2, c3]


def uniform(key: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """The float64 in [0, 1), of 53 random bits, that belongs to each (key, position); int64 in."""
    zero = torch.zeros_like(position)
    counter = (position & _LOW, position >> 32 & _LOW, zero, zero)
    x0, x1, _, _ = philox(counter, (key & _LOW, key >> 32 & _LOW))
    return ((x0 >> 5 << 26) + (x1 >> 6)).double() / 2.0**53
