"""How any stage runs: loop, engine, optimiser, checkpoint, metrics log."""
