"""Reads the tables of an archive as rows."""
