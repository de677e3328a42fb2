"""What could identify a person, in headers and texts: found and refused. Nothing here de-identifies."""
