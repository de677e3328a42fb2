"""The probabilities of another model in words, for a tool and for a provider.

Sources: VILA-M3 (Project-MONAI/VLM-Radiology-Agent-Framework), whose experts answer `atelectasis: yes`; ChatCAD (arXiv
2302.07257), which puts probabilities into words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from medvlm.core.config import Config

GRADES = ((0.9, "definitely there"), (0.5, "likely"), (0.2, "a small possibility"))
"""From which probability on, see ChatCAD (arXiv 2302.07257; zhaozh10/ChatCAD at 5f0773c), which also says `no sign`
below the last one."""
NOTHING = "no finding"


class AsksExpert(Config):
    run: str
    """A run with decoders, or an exported folder of one."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """Probability above which a class is there."""
    words: Literal["yes_no", "grades", "probabilities", "names"] = "yes_no"
    """How the classes are put into words, as in ChatCAD: `yes_no`, its three `grades` of likelihood (nothing is said of
    a class that is less likely than 0.2), `probabilities`, or the `names` alone of those that are there."""

    def verbalise(self, scores: Mapping[str, float]) -> Iterator[str]:
        """A line for each class of which something is said. scores: class -> probability."""
        if self.words == "names" and scores:
            found = [name for name, probability in scores.items() if probability > self.threshold]
            yield ", ".join(found) or NOTHING
            return
        for name, probability in scores.items():
            if self.words == "grades":
                said = next((grade for least, grade in GRADES if probability >= least), "")
            elif self.words == "probabilities":
                said = f"{probability:.2f}"
            else:
                said = "yes" if probability > self.threshold else "no"
            if said:
                yield f"{name}: {said}"

    def hash_records(self) -> str:
        """Of what the stages of the run, or its export, say that they are."""
        records = sorted([*Path(self.run).glob("*/stage.json"), *Path(self.run).glob("model.json")])
        return hashlib.sha256(b"".join(path.read_bytes() for path in records)).hexdigest()[:16]
