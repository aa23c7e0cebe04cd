"""Aspect-ratio buckets, resize and crop, encoding, shards."""
