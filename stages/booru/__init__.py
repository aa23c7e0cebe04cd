"""Booru metadata and image archives: database, selection, filter rules, caption profiles (polars; no torch)."""
