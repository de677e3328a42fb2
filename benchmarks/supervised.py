"""Compares LoRA tuning with images with TRL's SFTTrainer: samples per second and peak memory, on two CPU cores.

    python benchmarks/supervised.py --peers DIR --python ENV/bin/python

Both train adapters of rank 16 on all linear layers of the language model of one LLaVA with random weights (13 million
parameters), on the same 8 samples a step: a radiograph with a short answer (60 %) or a long one. Order and dropout of
samples differ; TRL also takes image placeholders as labels, so that losses cannot be compared.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from peers import compare, import_peers, make_card, parse_arguments, run_peer, train, write_recipe

BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments = parse_arguments(parser, pairs=5, steps=24)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        import_peers(arguments.peers, folder / "peers")
        write_model(folder)
        recipe = write_recipe(folder, make_recipe(arguments.steps), write_samples(folder, BATCH * arguments.steps))
        peer = partial(
            run_peer, arguments.python, arguments.peers / "trl_sft.py", ["plain", "fp32"], arguments.threads,
            PEERS_DIR=str(folder / "peers"), STEPS=str(arguments.steps),
        )  # fmt: skip
        compare("supervised", arguments.pairs, partial(train, recipe, arguments.threads), arguments.python and peer)


def write_model(folder: Path) -> None:
    """The LLaVA of the peers with its processor."""
    from tinyvlm import build

    model, processor = build()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")


def write_samples(folder: Path, count: int) -> dict[str, Any]:
    """The samples of the peers as conversations in LLaVA's format, and their card."""
    from common import sft_rows

    archive = folder / "archive"
    archive.mkdir()
    conversations = []
    for number, row in enumerate(sft_rows(count)):
        (archive / f"{number}.jpg").write_bytes(row["jpg"])
        turns = [{"from": "human", "value": row["question"]}, {"from": "gpt", "value": row["answer"]}]
        conversations.append({"id": str(number), "image": f"{number}.jpg", "conversations": turns})
    (archive / "samples.json").write_text(json.dumps(conversations))
    return make_card("made", {"kind": "llava_json", "file": "samples.json", "medium": "film", "task": "report"})


def make_recipe(steps: int) -> dict[str, Any]:
    return {
        "name": "supervised", "seed": 0, "model": {"pretrained": "model"},
        "data": {"made": {"card": "card.yaml", "root": "archive"}},
        "stages": [{
            "name": "tune", "kind": "supervised", "mix": {"made": 1}, "trains": ["lora"],
            "lora": {"rank": 16, "alpha": 32}, "steps": steps, "batch": BATCH, "save_every": 0,
            "optim": {"lr": 1e-3, "schedule": "constant", "warmup": 0, "weight_decay": 0},
        }],
    }  # fmt: skip


if __name__ == "__main__":
    main()
