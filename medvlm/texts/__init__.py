"""Text towers of dual encoders; each file offers Config and build()."""
