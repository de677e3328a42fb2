"""Whether a term of pretraining helps can be seen: a planted one that teaches what is asked does, and one that teaches
the toss of a coin does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvlm import cli
from medvlm.core.run import RunFolder
from medvlm.evaluate.compare import Comparison, compare
from tests.labelled_run import write_run
from tests.ssl_run import MAE, recipe
from tests.tiny_run import trained


def train(folder: Path, tells: str) -> RunFolder:
    loss = {
        **MAE,
        "kind": "tests.planted_term",
        "tells": tells,
        "ratio": 0.5,
        "crop": [1.0, 1.0],
        "changes": {"flip": False},
    }
    content = {
        **recipe(loss=loss, steps=150, batch=32, save_every=0),
        "plugins": ["tests"],
        "name": f"tells-{tells or 'nothing'}",
    }
    content["evaluate"] = {"on": ["films:test"], "protocols": ["linear_probe"], "bootstrap": 500}
    run = trained(write_run(folder, content, count=400), folder.parent / "runs")
    assert cli.main(["evaluate", str(run.root)]) == 0
    return run


def against(one: RunFolder, other: RunFolder) -> Comparison:
    found = compare({each.root.name: [each.root / "evaluate"] for each in (one, other)})
    return next(each for each in found if each.metric == "accuracy:side")


@pytest.mark.slow
def test_a_useful_term_helps_and_a_useless_one_does_not(tmp_path: Path) -> None:
    plain, useful, useless = (
        train(tmp_path / name, tells) for name, tells in (("a", ""), ("b", "side"), ("c", "coin"))
    )
    helped, hindered = against(plain, useful), against(plain, useless)
    assert helped.ci is not None and helped.ci[0] > 0, helped
    assert hindered.ci is not None and hindered.ci[0] <= 0, hindered
