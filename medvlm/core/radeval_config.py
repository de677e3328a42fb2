"""Which metrics of the package RadEval there are, and the environment that it runs in."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medvlm.core.config import Config

KEYS = {
    "bleu": ("bleu",),
    "rouge": ("rouge1", "rouge2", "rougeL"),
    "radgraph": ("radgraph_simple", "radgraph_partial", "radgraph_complete"),
    "f1chexbert": ("f1chexbert_sample_acc_5", "f1chexbert_sample_acc_all"),
    "green": ("green",),
    "crimson": ("crimson",),
}
"""Metric of RadEval 2.2 -> what it gives for each report, all with weights on the machine itself. Of CheXbert that is
the share of the classes on which both reports agree, not an F1."""
LOWEST = {"crimson": -1.0}
"""The lowest score, if it is not 0; the highest is 1."""


class RadEvalConfig(Config):
    """RadEval has an environment of its own, because it needs other libraries than medvlm."""

    python: str
    """The Python interpreter of that environment, e.g. /opt/radeval/bin/python. Install it with `pip install
    radeval==2.2.1`, and download its weights by running it once."""
    metrics: tuple[Literal["bleu", "rouge", "radgraph", "f1chexbert", "green", "crimson"], ...] = (
        "radgraph",
        "f1chexbert",
        "green",
        "crimson",
    )
    timeout_s: float = Field(3600.0, gt=0)
    """How long RadEval may take for the reports that are sent at a time (64), with loading its weights."""
