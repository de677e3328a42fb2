"""What a recipe would cost, and whether all of it runs, before a GPU is spent on it."""
