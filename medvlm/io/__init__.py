"""Bytes to arrays and back, and the shard format."""
