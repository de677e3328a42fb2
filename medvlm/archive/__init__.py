"""From a raw archive to shards, run once."""
