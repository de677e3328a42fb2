"""mixture_ranks.py RECIPE RUNS: trains a recipe on the ranks that run_ranks starts, for test_mixture.py."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.tiny_run import trained

if __name__ == "__main__":
    trained(Path(sys.argv[1]), Path(sys.argv[2]))
