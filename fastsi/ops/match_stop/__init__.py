"""Stop strings and completed answers in the bytes of growing texts."""
