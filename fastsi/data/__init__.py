"""Questions, prompt templates, training formats and run folders; never an answer key."""
