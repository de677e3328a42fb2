"""Tensors to a loss and its named terms."""
