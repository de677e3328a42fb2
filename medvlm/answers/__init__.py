"""Text to structured answer and back, one file an idea."""
