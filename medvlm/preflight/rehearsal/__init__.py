"""The dry run: every stage of a recipe at toy size."""
