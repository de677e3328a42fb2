"""Losses over pairs of image and text embeddings; each file offers Config and pair_loss()."""
