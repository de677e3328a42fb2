"""Language models. Each file offers Config, HAS_ENCODER, facts(), tokenizer(), new_tokens(), build(), standalone()."""
