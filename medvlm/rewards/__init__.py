"""A completion and its truth to a score in [0, 1]; each file carries its own EXAMPLES."""
