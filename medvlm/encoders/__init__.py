"""Encoders: from pixels to tokens. Each file offers Config, facts(), preprocess(), build() and standalone()."""
