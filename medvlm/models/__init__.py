"""Composition of built parts into one module."""
