"""Language models; each file offers Config, facts(), tokenizer(), new_tokens() and build()."""
