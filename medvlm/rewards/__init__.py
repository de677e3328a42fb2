"""What is paid for a completion beyond its task's own score; a number in [0, 1], and each file carries its EXAMPLES."""
