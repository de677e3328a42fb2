"""Text towers of dual encoders. Each file offers Config, tokenizer() and build()."""
