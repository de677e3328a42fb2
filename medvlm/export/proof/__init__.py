"""The proof that an exported folder computes what the model computes."""
