"""What several folders of tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from medvlm.core import config

# Nothing is fetched while tests run; set before any test imports a hub client.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tiny tensors: several threads on one of them cost ten times what they save on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data sets (bccd, vqa_rad, ...): $MEDVLM_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("MEDVLM_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"needs the real data sets: {folder} is not there, set MEDVLM_DATA=DIR")
    return folder


@pytest.fixture(autouse=True)
def plugins_of_other_tests_are_forgotten() -> Iterator[None]:
    """Plug-ins are permitted for a whole process: what one test permits must not pass in another."""
    before = set(config._PERMITTED)
    yield
    config._PERMITTED.clear()
    config._PERMITTED.update(before)
