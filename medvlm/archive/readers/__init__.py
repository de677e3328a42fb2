"""One file a kind of archive; each offers Config and read()."""
