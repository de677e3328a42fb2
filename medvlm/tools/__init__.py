"""What a model can ask for in the middle of an answer, one file each."""
