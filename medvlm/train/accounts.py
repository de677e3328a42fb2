"""What a run has used of each source, and how it does on it."""

from __future__ import annotations

from collections.abc import Mapping


def account(
    terms: Mapping[str, Mapping[str, float]], usage: Mapping[str, tuple[int, float]]
) -> dict[str, dict[str, float]]:
    """Source -> `samples` and `epochs` since the stage began, and what the terms of a step say of it: loss, tokens,
    reward, dropped.

    terms: source -> name -> value. usage: source -> (samples, rounds through it).
    """
    return {
        source: {"samples": samples, "epochs": round(epochs, 4), **terms.get(source, {})}
        for source, (samples, epochs) in usage.items()
    }


def summarize(sources: Mapping[str, Mapping[str, float]]) -> str:
    """`vqa 1.2 epochs, loss 0.83 | reports 0.3 epochs, loss 2.1`; nothing for a single source, whose loss is that of
    the stage."""
    if len(sources) < 2:
        return ""
    return " | ".join(
        f"{name} {a['epochs']:.2g} epochs" + (f", loss {a['loss']:.3g}" if "loss" in a else "")
        for name, a in sources.items()
    )
