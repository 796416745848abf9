"""The shape of a canonical key, ``kind:body``, and how to write one as an answer."""

from __future__ import annotations


def kind_of(key: str) -> str:
    """The part of a key before the colon: ``num``, ``choice``, ``bool``, ``text``, ..."""
    return key.partition(":")[0]


def render(key: str) -> str:
    """An answer text whose key is ``key``."""
    kind, _, body = key.partition(":")
    if kind == "ratio":
        return body.replace(":", " : ")  # 1:10 is a time
    return f"({body.upper()})" if kind == "choice" else body
