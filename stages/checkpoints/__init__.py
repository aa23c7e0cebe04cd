"""Checkpoints: formats and key maps, LoKr files, merging, metadata."""
