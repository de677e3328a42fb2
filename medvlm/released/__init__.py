"""Layouts of released models whose classes are their own: one file a release."""
