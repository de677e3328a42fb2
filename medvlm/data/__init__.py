"""From shards to batches, run at every step."""
