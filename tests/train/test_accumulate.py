"""`accumulate: auto` uses more micro-batches if memory runs out, the same number on every rank, without changing the
step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from medvlm.core.engine_config import EngineConfig
from medvlm.core.errors import RecipeError
from medvlm.core.sample import Batch
from medvlm.train.engines import make_engine
from medvlm.train.terms import Measured
from tests.tiny_run import differing
from tests.train.engine_ranks import Answering, run


class Fits(Answering):
    """A stage with memory for a limited number of samples at a time. It records the sizes it was called with."""

    samples = 2

    def compute_loss(self, model: nn.Module, micro: Batch, step: int) -> Measured:
        loss = super().compute_loss(model, micro, step)
        torch.rand(1)  # as dropout would
        if len(micro.answers_L.unique()) > 2 * self.samples:
            raise torch.OutOfMemoryError("as a GPU would say")
        return loss


class Nothing(Fits):
    samples = 0


@pytest.mark.slow
def test_the_step_is_that_of_the_number_that_fits(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """8 samples at a time, 4, then 2: gradients of failed attempts are dropped, and random numbers are drawn again."""
    engine = make_engine(EngineConfig(kind="single", device="cpu"))
    torch.manual_seed(5)
    found = run(tmp_path / "auto", engine, accumulate="auto", of=Fits)
    said = capfd.readouterr().out
    torch.manual_seed(5)
    known = run(tmp_path / "known", engine, accumulate=4, of=Fits)
    assert (
        found["micros"] == 4 and found["loss"] == known["loss"] and differing(found["weights"], known["weights"]) == []
    )
    assert (
        "out of memory with 8 samples at a time; from here on 4 (2 micro-batches" in said
        and "with 4 samples at a time; from here on 2 (4 micro" in said
    )


def test_a_sample_that_does_not_fit_alone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"out of memory with one sample at a time; use engine\.recompute"):
        run(tmp_path, make_engine(EngineConfig(kind="single", device="cpu")), accumulate="auto", of=Nothing)
