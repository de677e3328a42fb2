"""sharded.py FOLDER save|load: what several ranks save and load, for tests/train/test_sharded.py. Started by run_ranks;
each rank writes FOLDER/MODE-R.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from medvlm.core.errors import CheckpointError
from medvlm.train import checkpoint
from medvlm.train.checkpoint import Keep
from medvlm.train.saver import Saver
from medvlm.train.storage import HashingFile


def whole(scale: float = 1.0) -> dict[str, torch.Tensor]:
    """The same on every rank. 37 rows do not divide by 2 or 3; 2 rows leave the third of 3 ranks none."""
    torch.manual_seed(0)
    return {
        "rows": scale * torch.randn(37, 5),
        "columns": scale * torch.randn(4, 9),
        "few": scale * torch.randn(2, 3),
        "large": scale * torch.randn(2000, 500),
        "plain": scale * torch.randn(7),
    }


PLACES: dict[str, Any] = {"rows": Shard(0), "columns": Shard(1), "few": Shard(0), "large": Shard(0)}


def laid_out(tensors: dict[str, torch.Tensor], mesh: DeviceMesh, across: bool = False) -> dict[str, Any]:
    """Sharded; with `across`, along the other axis."""
    other = {"rows": Shard(1), "columns": Replicate(), "few": Shard(1), "large": Shard(1)}
    return {
        name: distribute_tensor(t, mesh, [(other if across else PLACES)[name]]) if name in PLACES else t
        for name, t in tensors.items()
    }


def save(folder: Path, mesh: DeviceMesh) -> dict[str, Any]:
    """Two saves while the ranks communicate all the time, and one that fails on the last rank."""
    rank, last = dist.get_rank(), dist.get_world_size() - 1
    exchanged = []
    with Saver(folder / "stage", rank, Keep()) as saver:
        for step in (1, 2):
            tensors = laid_out(whole(step), mesh)
            saver.save(step, {"model": tensors, "optim": {"rate": 0.5}}, {"step": step})
            for local in (t.to_local() if isinstance(t, DTensor) else t for t in tensors.values()):
                local.zero_()  # training goes on
            while True:
                x = torch.ones(1000)
                dist.all_reduce(x)
                exchanged.append(float(x.sum()))
                done = torch.tensor(float(saver.under_way is None or saver.under_way.done()))
                dist.all_reduce(done)
                if done == last + 1:
                    break
        saver.wait()
        write = HashingFile.write

        def failing(self: HashingFile, data: Any) -> None:
            if rank == last and ".safetensors" in self.file.name:
                raise OSError(28, "No space left on device")
            write(self, data)

        HashingFile.write = failing  # type: ignore[method-assign]
        saver.save(3, {"model": laid_out(whole(3), mesh), "optim": {}}, {"step": 3})
        try:
            saver.wait()
            failed = ""
        except CheckpointError as reason:
            failed = str(reason)
    return {"exchanges": len(exchanged), "right": set(exchanged) == {1000.0 * (last + 1)}, "failed": failed}


def load(folder: Path, mesh: DeviceMesh) -> dict[str, Any]:
    """Into shards along other axes, of another number of ranks."""
    tensors = {
        "model": laid_out({name: torch.zeros_like(t) for name, t in whole().items()}, mesh, across=True),
        "optim": {"rate": 0.0},
    }
    state = checkpoint.restore(folder / "stage" / "step-2", lambda read, names: read(tensors), dist.get_rank())
    found = {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in tensors["model"].items()}
    return {
        "same": all(torch.equal(found[name], t) for name, t in whole(2).items()),
        "state": state,
        "rate": tensors["optim"]["rate"],
    }


def main(folder: Path, mode: str) -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    result = {"save": save, "load": load}[mode](folder, mesh)
    (folder / f"{mode}-{dist.get_rank()}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
