"""preference_ranks.py RECIPE RUNS KIND...: trains the recipe under each engine, for
tests/train/test_preference_engines.py. Started by run_ranks."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.tiny_run import trained


def main(path: Path, runs: Path, kinds: list[str]) -> None:
    for kind in kinds:
        trained(path, runs, f"name={kind}", f"engine.kind={kind}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
