"""toy_ranks.py SHARDS FOLDER: evaluates the toy model as one of the ranks, and writes down what it was asked."""

import sys
from pathlib import Path

from medvlm.evaluate.ranks import find_rank, join_ranks
from medvlm.io.opening import open_shards
from tests.evaluate.toy import Noisy, evaluate_toy

if __name__ == "__main__":
    shards, folder = Path(sys.argv[1]), Path(sys.argv[2])
    with join_ranks("cpu"):
        toy = Noisy()
        rows = evaluate_toy(toy, open_shards(shards), folder)
        rank, _ = find_rank()
        (folder / f"asked-{rank}.txt").write_text("\n".join(map(str, sorted(toy.asked))))
        assert bool(rows) == (rank == 0)
