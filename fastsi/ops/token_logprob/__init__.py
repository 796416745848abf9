"""`token_logprob`: log-probability of chosen tokens without the matrix of logits."""
