"""What a run has used of each source, and how it does on it."""

from __future__ import annotations

from collections.abc import Mapping

SOURCE = "source/"
"""Begins the name of a term that belongs to one source: source/NAME/WHAT."""


def accounts(summed: Mapping[str, float], used: Mapping[str, tuple[int, float]]) -> dict[str, dict[str, float]]:
    """Source -> `samples` and `epochs` since the stage began, and what its terms say of this step: loss, tokens,
    reward, dropped.

    used: source -> (samples, rounds through it). summed: all terms of a step.
    """
    found: dict[str, dict[str, float]] = {
        name: {"samples": samples, "epochs": round(epochs, 4)} for name, (samples, epochs) in used.items()
    }
    for term, value in summed.items():
        if term.startswith(SOURCE):
            _, name, what = term.split("/")
            found[name][what] = value
    return found


def in_short(of_sources: Mapping[str, Mapping[str, float]]) -> str:
    """`vqa 1.2 epochs, loss 0.83 | reports 0.3 epochs, loss 2.1`; nothing for a single source, whose loss is that of
    the stage."""
    if len(of_sources) < 2:
        return ""
    return " | ".join(
        f"{name} {a['epochs']:.2g} epochs" + (f", loss {a['loss']:.3g}" if "loss" in a else "")
        for name, a in of_sources.items()
    )
