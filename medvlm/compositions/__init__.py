"""Compositions, or kinds of models, one file each: the parts of a model, how they are assembled, and what it can do."""
