"""Packs raw samples into shards, with limits on memory and time, and a journal to resume from."""
