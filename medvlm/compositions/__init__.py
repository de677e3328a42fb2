"""Kinds of model, a file each: what a model's parts are, how they are put together, and what it can be asked."""
