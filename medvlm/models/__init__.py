"""Composes built parts into one module."""
