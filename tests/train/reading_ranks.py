"""reading_ranks.py FOLDER KIND...: a run under each engine, with weights read into shards and with weights read whole,
for tests/train/test_reading.py. Started by run_ranks; rank R writes FOLDER/rank-R.pt."""

from __future__ import annotations

import os
import sys
import weakref
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medvlm.commands import building
from medvlm.commands import train as training
from tests.tiny_run import trained


class Living(TorchDispatchMode):
    """Bytes of the tensors on the CPU that exist at once, files that are mapped left out. peak: the most of them.
    largest: the largest of them alone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.largest = 0
        self.known: dict[int, Any] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if self._counts(t)}
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if self._counts(tensor) and tensor.untyped_storage()._cdata not in given | self.known.keys():
                self._see(tensor.untyped_storage())
        return made

    def _counts(self, leaf: Any) -> bool:
        return type(leaf) in (torch.Tensor, torch.nn.Parameter) and leaf.device.type == "cpu"

    def _see(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.now += size
        self.peak, self.largest = max(self.peak, self.now), max(self.largest, size)

        def forget() -> None:
            self.now -= size
            self.known.pop(key, None)

        self.known[key] = weakref.finalize(storage, forget)


def run(folder: Path, kind: str, reads: str) -> dict[str, Any]:
    """The largest amounts of memory until the model of a stage is placed, by stage."""
    living: dict[str, tuple[int, int]] = {}
    begin = training._begin_stage

    def begin_and_see(run: Any, config: Any, number: int) -> Any:
        with Living() as seen:
            begun = begin(run, config, number)
        living[config.name] = seen.peak, seen.largest
        return begun

    deferring = building.deferring
    training._begin_stage = begin_and_see  # type: ignore[assignment]
    whole: Any = lambda: nullcontext([])  # noqa: E731
    building.deferring = deferring if reads == "shards" else whole
    try:
        trained(folder / "recipe.yaml", folder / "runs", f"name={kind}-{reads}", f"engine.kind={kind}")
    finally:
        training._begin_stage, building.deferring = begin, deferring
    return {"living": living}


def main(folder: Path, kinds: list[str]) -> None:
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # `Living` sees one thread
    found = {f"{kind}-{reads}": run(folder, kind, reads) for kind in kinds for reads in ("shards", "whole")}
    torch.save(found, folder / f"rank-{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
