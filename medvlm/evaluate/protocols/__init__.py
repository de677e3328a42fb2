"""What a model can be evaluated by, one file a protocol."""
