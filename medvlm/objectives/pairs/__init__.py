"""Losses over pairs of image and text embeddings; each file offers Config, start() and pair_loss()."""
