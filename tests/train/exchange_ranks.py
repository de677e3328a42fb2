"""exchange_ranks.py FOLDER: what tests/train/test_exchange.py compares with one process. Started by run_ranks; rank R
writes FOLDER/rank-R.pt."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from medvlm.connectors import mlp
from medvlm.core.engine_config import EngineConfig
from medvlm.data.dialogue import TokenSequence
from medvlm.data.rows import collate
from medvlm.encoders import slices, transformers
from medvlm.models.parts import matches, set_trained
from medvlm.models.vlm import VLM
from medvlm.objectives.next_token import read_losses
from medvlm.stages._image_check import ImageCheck
from medvlm.train.dealing import Dealing
from medvlm.train.engine import Engine
from medvlm.train.engines import make_engine
from medvlm.train.muon import Muon
from tests.models.tiny import IMAGE_ID, PAD_ID, SMALL, language

TOKENS = {"film": 4, "volume": 12}
SHAPES = {"film": (3, 16, 16), "volume": (3, 3, 16, 16)}
SAMPLES = (["volume", "volume", "film"], ["volume"], ["film"], [])
"""The media of each sample. The first of two ranks gets the first two samples, the second rank the others: 9 and 0
slices, 1 and 1 films."""
MATRICES = ((8, 4), (8, 4), (8, 4), (4, 4), (12, 3))
TRAINED = {"frozen": ("connectors",), "trained": ("encoders", "connectors"), "chunks": ("encoders",)}


# --- names and rows -------------------------------------------------------------------------------------


def sum_terms(engine: Engine) -> list[Any]:
    """Each rank has a name that the other lacks, and later fewer names than before. With the number of collectives."""
    own = [{"a": (1.0, 2.0), f"of rank {engine.rank}": (3.0, 1.0)}, {"a": (2.0, 2.0)}, {}]
    found = []
    for named in own:
        with _Counted() as count:
            found.append((*engine.sum_by_name([1.0, engine.rank], named), count.number))
    return found


class _Counted(TorchDispatchMode):
    """Counts collectives, but not those of FSDP2, which are functional."""

    number = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += function.name().startswith("c10d::")
        return function(*args, **(kwargs or {}))


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gather(rank: int, world: int, stack: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Three tensors stacked over the ranks, and the gradients of the rank's own rows for a loss that depends on all."""
    rows = slice(2 * rank, 2 * rank + 4 // world)
    whole = (drawn(1, 4, 3), drawn(2, 4, 2, 2).double(), torch.arange(4) << 40)
    own = [each[rows].clone().requires_grad_(each.is_floating_point()) for each in whole]
    stacked = stack(*own)
    weight = torch.arange(4.0) * stacked[2] / (1 << 40) + 1
    loss = ((stacked[0] @ drawn(3, 3)).tanh() * weight)[rows].sum() + (
        stacked[1].flatten(1).prod(1) * weight
    ).sum() / world
    loss.backward()
    return [each.detach() for each in stacked], [each.grad for each in own if each.grad is not None]


# --- Muon ------------------------------------------------------------------------------------------------


def step_muon() -> list[torch.Tensor]:
    parameters = [nn.Parameter(drawn(i, *shape)) for i, shape in enumerate(MATRICES)]
    groups = [
        {"params": parameters[:2], "orthogonal": True, "weight_decay": 0.1},
        {"params": parameters[2:], "orthogonal": True},
    ]
    optimizer = Muon(groups, lr=0.1)
    for number in range(2):
        for i, parameter in enumerate(parameters):
            parameter.grad = drawn(10 * number + i, *parameter.shape)
        with _Counted() as count:
            optimizer.step()
    return [*(p.detach() for p in parameters), torch.tensor(count.number)]


# --- towers -----------------------------------------------------------------------------------------------


def make_model(chunk: int) -> VLM:
    torch.manual_seed(0)
    film = transformers.Config(
        kind="transformers", config={"model_type": "siglip_vision_model", **SMALL, "image_size": 16, "patch_size": 8}
    )
    volume = slices.Config(kind="slices", encoder=film, slices=3, chunk=chunk)
    encoders = {"film": transformers.build(film), "volume": slices.build(volume)}
    connectors = {name: mlp.build(mlp.Config(kind="mlp"), 16, 16, (each,)) for name, each in TOKENS.items()}
    return VLM(nn.ModuleDict(encoders), nn.ModuleDict(connectors), language("qwen2"), IMAGE_ID)


def make_sample(number: int) -> TokenSequence:
    generator = torch.Generator().manual_seed(number)
    media = [(name, torch.randn(SHAPES[name], generator=generator)) for name in SAMPLES[number]]
    ids = [1] + [IMAGE_ID for name, _ in media for _ in range(TOKENS[name])] + [5, 6 + number]
    return TokenSequence(f"sample-{number}", ids, [([7, 8, 9 + number], 0)], media)


def train(case: str, kind: str, deals: bool) -> dict[str, Any]:
    """Loss and gradients of one pass, the rows that each tower of this rank has run, and the number of exchanges."""
    engine = make_engine(EngineConfig(kind=kind, device="cpu", deal_media=deals))  # type: ignore[arg-type]
    model = make_model(chunk=2 if case == "chunks" else 0)
    set_trained(model, TRAINED[case], "test")
    model.runs_all = engine.runs_all
    ran = dict.fromkeys(model.encoders, 0)
    for name, encoder in model.encoders.items():
        encoder.get_submodule("each" if name == "volume" else "").register_forward_pre_hook(_note(ran, name))
    engine.place(model, matches)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    wrapped = engine.setup(model, {"": optimizer})
    share = len(SAMPLES) // engine.world
    own = [make_sample(i) for i in range(engine.rank * share, (engine.rank + 1) * share)]
    with _Counted() as count:
        loss = wrapped(collate(own, TOKENS, PAD_ID), read_losses)["losses_L"].sum()
        forward = count.number
        engine.backward(loss / 12)
    ran = dict(ran)
    text = TokenSequence("text", [1, 5, 6], [([7, 8], 0)], [])
    ImageCheck("test", engine).look(model, collate([text] if engine.rank else own, TOKENS, PAD_ID))
    with torch.no_grad(), engine.gather_weights(model):  # as for answers: the second rank calls it more often
        for _ in range(1 + engine.rank):
            model(collate(own, TOKENS, PAD_ID), read_losses)
    gradients = {n: engine.unshard(p.grad).clone() for n, p in model.named_parameters() if p.grad is not None}
    return {"loss": engine.sum_over_ranks([float(loss.detach())])[0], "gradients": gradients, "ran": ran,
            "exchanges": (forward, count.number - forward)}  # fmt: skip


def _note(ran: dict[str, int], name: str) -> Any:
    def note(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        ran[name] += len(args[0])

    return note


def main(folder: Path) -> None:
    engine = make_engine(EngineConfig(kind="ddp", device="cpu"))
    found: dict[str, Any] = {
        "terms": sum_terms(engine),
        "rows": gather(engine.rank, 2, engine.gather),
        "muon": step_muon(),
        **{f"{kind} {case}": train(case, kind, deals=True) for kind in ("ddp", "fsdp2") for case in TRAINED},
        "not dealt": train("trained", "ddp", deals=False),
        "not dealt, in chunks": train("chunks", "fsdp2", deals=False),
        "none": [each.shape for each in Dealing()(lambda rows: (rows, rows[:, 0]), torch.zeros(0, 3, 2))],
    }
    torch.save(found, folder / f"rank-{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
