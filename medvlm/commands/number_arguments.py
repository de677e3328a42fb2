"""Numbers on the command line."""

from __future__ import annotations

import argparse


def read_count(text: str) -> int:
    """A whole number of at least 1, as `type` of an argument."""
    try:
        count = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count}: expected at least 1")
    return count
