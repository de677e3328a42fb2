"""What a trained model can be written as; each file is a target, its name is the word in `export.target`."""
