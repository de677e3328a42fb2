"""The reward of grpo.py."""
