"""native_ranks.py FOLDER KIND:FAMILY...: what tests/models/test_native_dealt.py compares with one process. Started by
run_ranks; rank R writes FOLDER/rank-R.pt. FOLDER/FAMILY holds a tiny model."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from medvlm.core.engine_config import EngineConfig
from medvlm.data.native import Processor, make_native_prepare
from medvlm.models.parts import matches, set_trained
from medvlm.models.pictures import split_pictures
from medvlm.models.ready import build_native
from medvlm.objectives.next_token import read_losses
from medvlm.stages._image_check import ImageCheck
from medvlm.train.engines import make_engine
from tests.models.test_native import document, pictures

SAMPLES = (3, 2, 1, 0)
"""Pictures of each sample. The first of two ranks gets the first two samples, the second rank the others."""
ONE_EACH = (1, 1, 1, 1)
WITHOUT_TEXTS = (3, 2, 1, 1)
"""For a family that needs a picture."""


def train(folder: Path, kind: str, deals: bool = True, trains: tuple[str, ...] = ("encoders", "connectors")) -> Any:
    """Loss and gradients of one pass, and how many pictures or tiles the tower of this rank has read."""
    engine = make_engine(EngineConfig(kind=kind, device="cpu", deal_media=deals))  # type: ignore[arg-type]
    prepare = make_native_prepare(Processor(folder), {}, "", 1000)
    model = build_native(folder, prepare.processor.blank(), 0, barred_ids=prepare.processor.barred_ids)
    set_trained(model, trains, "test")
    model.runs_all = engine.runs_all
    engine.place(model, matches)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    wrapped = engine.setup(model, {"": optimizer})
    numbers = WITHOUT_TEXTS if model.family.asks_once else SAMPLES
    numbers = ONE_EACH if model.family.places_picture else numbers
    share = len(numbers) // engine.world
    own = range(engine.rank * share, (engine.rank + 1) * share)
    batch = prepare.collate([document(prepare, pictures(numbers[i], i), ["left"], f"s{i}") for i in own], 0)
    ran: list[int] = []
    embed = model.embed_images

    def count(media: Any) -> Any:
        ran.append(len(split_pictures(media, model.family.tiles_alone)))
        return embed(media)

    model.embed_images = count  # type: ignore[method-assign]
    loss = wrapped(batch, read_losses)["losses_L"].sum()
    engine.backward(loss / 12)
    (read,) = ran
    gradients = {n: engine.unshard(p.grad).clone() for n, p in model.named_parameters() if p.grad is not None}
    ImageCheck("test", engine).look(model, batch)
    return {"loss": engine.sum_over_ranks([float(loss.detach())])[0], "gradients": gradients, "read": read}


def main(folder: Path, cases: list[str]) -> None:
    found: dict[str, Any] = {}
    for case in cases:
        kind, family = case.split(":")
        found[case] = train(folder / family, kind)
    if "ddp:gemma3" in cases:
        found["frozen"] = train(folder / "gemma3", "ddp", trains=("language",))
        found["not dealt"] = train(folder / "gemma3", "ddp", deals=False)
    torch.save(found, folder / f"rank-{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
