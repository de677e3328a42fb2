"""Families of ready vision-language models, one file each, named after their `model_type`."""
