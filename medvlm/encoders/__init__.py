"""Pixels to named tokens; each file offers Config, facts() and build()."""
