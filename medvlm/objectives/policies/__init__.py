"""What a policy learns from groups of answers and their rewards, one file each."""
