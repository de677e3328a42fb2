"""Connectors, from encoder tokens to the language model's width. Each file offers Config, tokens() and build()."""
