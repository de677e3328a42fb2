"""Decoders: predict class scores or masks from an encoder's features. One file per kind."""
