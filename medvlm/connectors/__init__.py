"""Encoder tokens to language-model width; each file offers Config, tokens() and build()."""
