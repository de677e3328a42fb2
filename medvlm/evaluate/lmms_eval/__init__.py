"""For the package lmms-eval: its tasks from shards, and models that medvlm opens as one of its models."""
