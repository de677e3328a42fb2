"""Tables of an archive as rows."""
