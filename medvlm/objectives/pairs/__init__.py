"""Losses over pairs of image and text embeddings; each file offers Config, start(), pair_loss(), and more for rings."""
