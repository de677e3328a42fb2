"""Scoring rules of published benchmarks, one file each. They score saved answers beside the strict score."""
