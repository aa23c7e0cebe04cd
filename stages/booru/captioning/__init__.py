"""Captions by profile, and the lists of artists and characters."""
