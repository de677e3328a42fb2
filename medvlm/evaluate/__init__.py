"""Protocols: generation, retrieval, baselines."""
