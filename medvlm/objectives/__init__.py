"""Computes a loss and its named terms from tensors."""
