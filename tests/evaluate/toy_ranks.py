"""toy_ranks.py SHARDS FOLDER: evaluates the toy model as one of the ranks, and writes down what it was asked."""

import sys
from pathlib import Path

from medvlm.evaluate.ranks import find_rank, join_ranks
from medvlm.io.opening import open_shards
from tests.evaluate.toy import Noisy, evaluate_toy


class Hashed(Noisy):
    """Its identity may be read by the first rank alone, as it costs a hash of all weights."""

    @property
    def identity(self) -> dict[str, str]:  # type: ignore[override]
        assert find_rank()[0] == 0
        return {"model": "toy"}


if __name__ == "__main__":
    shards, folder = Path(sys.argv[1]), Path(sys.argv[2])
    with join_ranks("cpu"):
        toy = Hashed()
        rows = evaluate_toy(toy, open_shards(shards), folder)
        rank, _ = find_rank()
        (folder / f"asked-{rank}.txt").write_text("\n".join(map(str, sorted(toy.asked))))
        assert bool(rows) == (rank == 0)
