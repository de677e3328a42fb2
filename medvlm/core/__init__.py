"""The vocabulary: configs, cards, samples, contracts, geometry, errors. Imports nothing of ours and nothing heavy."""
