"""Draw one token per row from its own random stream."""
