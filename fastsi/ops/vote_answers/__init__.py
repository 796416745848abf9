"""Votes over sampled token ids: bytes, answers, canonical keys and majorities in one call."""
