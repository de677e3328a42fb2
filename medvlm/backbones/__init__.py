"""Language models; each file offers Config, tokenizer() and build()."""
