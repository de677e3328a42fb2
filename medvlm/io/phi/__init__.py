"""Finds and refuses what could identify a person, in headers and texts. Nothing here de-identifies."""
