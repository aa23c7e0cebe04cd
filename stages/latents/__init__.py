"""Aspect-ratio buckets, resize and crop, VAE encoding, shards."""
