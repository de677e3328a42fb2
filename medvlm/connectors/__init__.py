"""Connectors: from encoder tokens to tokens of the language model's width. Each file offers Config, tokens() and
build()."""
