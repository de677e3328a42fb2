"""How much an answer depends on its images: 1 - exp(-gain), with the gain by which its tokens are more probable with
the images than with blank ones, in nats per token.

0 for an answer that is as probable, or more, without them, however right it is. It says nothing about whether an answer
is right, so it belongs into a `product` with a reward that does. Costs two forward passes over the answers of a step.
"""

from __future__ import annotations

import math

from medvlm.core.contracts import Case, RewardConfig
from medvlm.core.sample import make_truth

READS_CASE = True
NEEDS_IMAGE_GAIN = True


class Config(RewardConfig):
    pass


def applies(case: Case, config: Config) -> bool:
    return case.image_gain is not None


def score(completion: str, case: Case, config: Config) -> float:
    assert case.image_gain is not None
    return 1 - math.exp(-max(0.0, case.image_gain)) if completion.strip() else 0.0


_SIDE = make_truth("choice", "left", choices=("left", "right"))

EXAMPLES = [
    ("left", Case(_SIDE, image_gain=math.inf), 1.0),
    ("left", Case(_SIDE, image_gain=math.log(2)), 0.5),
    # What is as probable without the image, or more; and nothing at all.
    ("left", Case(_SIDE, image_gain=0.0), 0.0),
    ("left", Case(_SIDE, image_gain=-3.0), 0.0),
    (" ", Case(_SIDE, image_gain=1.0), 0.0),
]
