"""dealt_ranks.py FRESH HALFWAY RUNS: trains two recipes on two ranks; the second was begun by one process."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.tiny_run import trained


def main(*recipes: str, runs: Path) -> None:
    for path in recipes:
        trained(Path(path), runs)


if __name__ == "__main__":
    main(*sys.argv[1:-1], runs=Path(sys.argv[-1]))
