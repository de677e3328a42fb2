"""What several folders of tests share."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from medvlm.archive.packing import pack as packing
from medvlm.core import config
from tests.warm_decoders import warm

# Nothing is fetched while tests run; set before any test imports a hub client.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tiny tensors: several threads on one of them cost ten times what they save on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent
STAND_INS = ROOT / "tests" / "stand_ins"
"""Networks in place of packages that are on no index, under their names."""
sys.path.append(str(STAND_INS))
DEAREST = (
    "archive/test_cards.py",
    "train/test_engines.py",
    "plugins/test_plugins.py",
    "archive/test_pack_hostile.py",
    "test_training.py",
    "test_broken_inputs.py",
    "archive/test_pack_resume.py",
    "archive/test_card_layouts.py",
    "export/test_stock.py",
    "evaluate/test_evaluate.py",
    "archive/test_pack.py",
    "test_misspelling.py",
    "preflight/test_plan.py",
    "export/test_adapter.py",
    "archive/test_pack_targets.py",
    "test_native_runs.py",
    "evaluate/test_meteor.py",
    "archive/test_audit.py",
    "test_recipes.py",
    "test_starts.py",
)
"""The files that take longest. With `--no-loadscope-reorder` the workers begin with them, or one would still be busy
with one of them when the others are done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {ROOT / "tests" / name: place for place, name in enumerate(DEAREST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data sets (bccd, vqa_rad, ...): $MEDVLM_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("MEDVLM_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"needs the real data sets: {folder} is not there, set MEDVLM_DATA=DIR")
    return folder


@pytest.fixture(autouse=True, scope="session")
def one_warm_decoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests pack a few samples, and each decoder process works for 1.5 s before its first one."""
    with warm(tmp_path_factory.mktemp("warm")), pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "num_decoders", lambda: 1)
        yield


@pytest.fixture(autouse=True, scope="module")
def plugins_of_other_files_are_forgotten() -> Iterator[None]:
    """Plug-ins are permitted for a whole process: what one file permits must not pass in another."""
    yield from _forget_plugins()


@pytest.fixture(autouse=True)
def plugins_of_other_tests_are_forgotten() -> Iterator[None]:
    yield from _forget_plugins()


def _forget_plugins() -> Iterator[None]:
    before = set(config._PERMITTED)
    yield
    config._PERMITTED.clear()
    config._PERMITTED.update(before)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What exists before a test is left out of garbage collection: training collects after every stage, which takes as
    long as there are objects, and a process that runs tests holds millions."""
    gc.freeze()
