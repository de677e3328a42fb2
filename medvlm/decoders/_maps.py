"""What decoders of masks share."""

from __future__ import annotations

from medvlm.core.decoder_config import DecoderConfig


def count_maps(config: DecoderConfig) -> int:
    """Number of output maps: one per class, and one for the background if the classes are exclusive."""
    return len(config.classes) + config.exclusive
