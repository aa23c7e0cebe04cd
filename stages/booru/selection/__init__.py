"""Which posts are taken: ranges, conditions, caps, draws."""
