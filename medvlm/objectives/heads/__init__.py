"""Losses of decoders: logits against labels, one file each."""
