"""How much of each source a run has used, and its loss on it."""

from __future__ import annotations

from collections.abc import Mapping


def account_for_sources(
    terms: Mapping[str, Mapping[str, float]], usage: Mapping[str, tuple[int, float]]
) -> dict[str, dict[str, float]]:
    """Source -> `samples` and `epochs` since the start of the stage, and its terms of the step: loss, tokens, reward,
    dropped.

    terms: source -> name -> value. usage: source -> (samples, epochs).
    """
    return {
        source: {"samples": samples, "epochs": round(epochs, 4), **terms.get(source, {})}
        for source, (samples, epochs) in usage.items()
    }


def summarize(sources: Mapping[str, Mapping[str, float]]) -> str:
    """`vqa 1.2 epochs, loss 0.83 | reports 0.3 epochs, loss 2.1`. Empty for a single source, whose loss is the loss of
    the stage."""
    if len(sources) < 2:
        return ""
    return " | ".join(
        f"{name} {a['epochs']:.2g} epochs" + (f", loss {a['loss']:.3g}" if "loss" in a else "")
        for name, a in sources.items()
    )
