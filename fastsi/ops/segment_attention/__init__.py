"""Attention of rows over shared spans of keys and values."""
