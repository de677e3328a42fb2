"""medvlm: medical multimodal foundation models from one recipe."""

__version__ = "0.2.0"
