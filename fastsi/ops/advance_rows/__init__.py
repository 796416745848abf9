"""A batch of decoding rows moved on by the token that each has drawn."""
