"""Named providers of context for a sample, one file each."""
