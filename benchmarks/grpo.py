"""Compares GRPO with images with TRL's GRPOTrainer: answers per second and peak memory, on two CPU cores.

    python benchmarks/grpo.py --peers DIR --python ENV/bin/python
    python benchmarks/grpo.py --peers DIR --python ENV/bin/python --repeats 5 --tokens 512 --steps 2 --threads 1

Both train adapters of rank 16 on all linear layers of the language model of one LLaVA with random weights (13 million
parameters): 4 questions a step with 8 answers each, the same reward, no KL term. The prompt repeats its instruction:
three times, as in the peer's script, it has 322 tokens, 64 of them of the image; five times, 488.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from peers import Run, compare, import_peers, make_card, parse_arguments, run_peer, train, write_recipe
from supervised import write_model

PROMPTS, GROUP = 4, 8
INSTRUCTION = (
    "You are reading a chest radiograph. Look at the image, decide on which side and in which zone the abnormality"
    " lies, and answer with one word for the side, then the zone, then the kind. "
)
"""As in the script of the peer, which repeats it three times."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="of the instruction in the prompt")
    parser.add_argument("--tokens", type=int, default=32, help="most tokens of an answer")
    arguments = parse_arguments(parser, pairs=5, steps=6)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        import_peers(arguments.peers, folder / "peers")
        write_model(folder)
        card = write_samples(folder, PROMPTS * arguments.steps, arguments.repeats)
        recipe = write_recipe(folder, make_recipe(arguments.steps, arguments.tokens), card)
        ours = partial(train, recipe, arguments.threads, warm=1, answers=GROUP)
        peer = partial(run_trl, arguments, folder) if arguments.python else None
        compare(f"grpo, {arguments.repeats} instructions, {arguments.tokens} tokens", arguments.pairs, ours, peer)


def run_trl(arguments: argparse.Namespace, folder: Path) -> Run:
    script = (arguments.peers / "trl_grpo.py").read_text()
    once = 'then the kind. " * 3'
    assert once in script, "the script of the peer no longer has the instruction that --repeats changes"
    own = folder / "trl_grpo.py"
    own.write_text(script.replace(once, f'then the kind. " * {arguments.repeats}'))
    return run_peer(
        arguments.python, own, [str(GROUP), str(arguments.tokens)], arguments.threads,
        PEERS_DIR=str(folder / "peers"), STEPS=str(arguments.steps), PYTHONPATH=str(arguments.peers.resolve()),
    )  # fmt: skip


def write_samples(folder: Path, count: int, repeats: int) -> dict[str, Any]:
    """The samples of the peer as questions for a side, and their card."""
    from common import sft_rows

    archive = folder / "archive"
    archive.mkdir()
    rows = []
    for number, row in enumerate(sft_rows(count, seed=3)):
        (archive / f"{number}.jpg").write_bytes(row["jpg"])
        rows.append(
            {"film": f"{number}.jpg", "question": INSTRUCTION * repeats + row["question"], "side": row["label"][0]}
        )
    (archive / "samples.json").write_text(json.dumps(rows))
    question = {"text": "{question}", "answer": "{side}", "template": "side", "choices": ["left", "right"]}
    media = [{"file": "{film}", "kind": "film"}]
    return make_card("made", {"kind": "table", "file": "samples.json", "media": media, "questions": [question]})


def make_recipe(steps: int, tokens: int) -> dict[str, Any]:
    return {
        "name": "grpo", "seed": 0, "plugins": ["chest_words"], "model": {"pretrained": "model"},
        "data": {"made": {"card": "card.yaml", "root": "archive"}},
        "stages": [{
            "name": "reason", "kind": "grpo", "mix": {"made": 1}, "trains": ["lora"],
            "lora": {"rank": 16, "alpha": 32}, "steps": steps, "batch": PROMPTS, "save_every": 0,
            "group": GROUP, "max_new_tokens": tokens, "pay_cut": True, "tasks": ["choice"],
            "rewards": {"chest_words.side": 1.0},
            "optim": {"lr": 1e-4, "schedule": "constant", "warmup": 0, "weight_decay": 0},
        }],
    }  # fmt: skip


if __name__ == "__main__":
    main()
