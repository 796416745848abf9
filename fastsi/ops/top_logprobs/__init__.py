"""`top_logprobs`: the likeliest tokens of rows of logits, and the ranks of given ones."""
