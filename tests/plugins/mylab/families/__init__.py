"""Families of ready models, one file each, named after their `model_type`."""
