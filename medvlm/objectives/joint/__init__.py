"""Further losses of a contrastive stage from the same pass; each file offers Config and build(), see _base.py."""
