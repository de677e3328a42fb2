"""Language models. Each file offers Config, facts(), tokenizer(), new_tokens() and build()."""
