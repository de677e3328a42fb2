"""Recognizes what a folder holds, and proposes how to read it: one file per layout."""
