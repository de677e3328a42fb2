"""Turns predictions into metrics with confidence intervals."""
