"""What several test folders share: tiny models, prompts and comparisons with a reference."""
