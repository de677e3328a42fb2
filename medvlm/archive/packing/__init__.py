"""From raw samples to shards, with limits, journal and resume."""
