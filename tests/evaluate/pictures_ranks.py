"""pictures_ranks.py SHARDS FOLDER: evaluates a planted model with corrupted images as one of the ranks."""

import sys
from pathlib import Path

from medvlm.core.run import RunFolder
from medvlm.evaluate.ranks import join_ranks
from medvlm.evaluate.run import evaluate
from medvlm.io.opening import open_shards

if __name__ == "__main__":
    from tests.evaluate.test_robustness import NOISE, Exact

    shards = open_shards(Path(sys.argv[1]))
    with join_ranks("cpu"):
        evaluate(
            [Exact()], shards, dataset="pictures", split="test",
            places=[("test", i) for i in range(shards.count("test"))], training=list, out=RunFolder(Path(sys.argv[2])),
            protocols=[NOISE], resamples=100,
        )  # fmt: skip
