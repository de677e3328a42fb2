"""Settings of answers that draw, in a supervised stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from medvlm.core.config import Config, component, kinds
from medvlm.core.decoder_config import HEAD_LOSSES, HeadLosses, reads_tokens
from medvlm.core.errors import did_you_mean
from medvlm.core.problems import Problem
from medvlm.stages._answered import explain_unanswered


class Draws(Config):
    losses: HeadLosses = Field(min_length=1)
    """Of the masks of structures that are there, e.g. [dice, binary_cross_entropy]."""
    presence: float = Field(1.0, gt=0)
    """Factor of the cross-entropy of whether a structure is there."""
    names: int = Field(2, gt=0)
    """Structures in one question at most. Each is as likely one that is there as one that is not."""


def check_draws(draws: Mapping[str, Draws], model: Any, cards: Mapping[str, Any]) -> Iterator[Problem]:
    for name, settings in draws.items():
        path = ("draws", name)
        if name not in model.decoders:
            known = ", ".join(model.decoders) or "none"
            yield Problem(
                path, f"there is no decoder {name!r}{did_you_mean(name, model.decoders)} (model.decoders has {known})"
            )
            continue
        decoder = model.decoders[name]
        if not reads_tokens(decoder):
            able = [kind for kind in kinds("decoders") if getattr(component("decoders", kind), "READS_TOKENS", False)]
            yield Problem(path, f"{decoder.kind} reads no language model; use a decoder of kind {', '.join(able)}")
            continue
        for number, loss in enumerate(settings.losses):
            module = component(HEAD_LOSSES, loss.kind)
            why = module.refuse(loss, decoder.as_one(), component("decoders", decoder.kind).OUTPUT)
            if getattr(module, "JOINT", False):
                why = why or "compares the samples of a batch with each other"
            if why:
                yield Problem((*path, "losses", number), f"{loss.kind} {why}")
        if why := explain_unanswered(name, decoder, cards):
            yield Problem(path, why)
