"""Whether a film of a new patient finds its own note: linear heads on frozen towers, in folds by patient.

    python benchmarks/notes_retrieval.py --data DIR --film efficientnet_lite0.safetensors --text all-MiniLM-L6-v2

--data: the folder of data_cards/cxr_cohen.yaml (not for commercial use). --film: weights of tf_efficientnet_lite0.
--text: a folder or hub id of a text tower. Both towers are frozen, so each film and note is read once. Heads of
recipes/real/notes_retrieval.yaml are trained anew for each fold and seed: on pairs, on pairs of other films and notes
(`other notes`), and not at all. The candidates of a film are the different notes of its fold. Intervals are
of patients.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import normalize

from medvlm.core.card import load_card
from medvlm.core.config import component
from medvlm.core.contracts import RawSample
from medvlm.metrics.bootstrap import interval, resample
from medvlm.metrics.retrieval import chance_at, ranks
from medvlm.objectives.pairs import clip

FOLDS, WIDTH, STEPS, BATCH, RATE, SIDE = 5, 384, 40, 48, 1e-3, 224


def read_pairs(root: Path) -> Iterator[tuple[str, str, Path]]:
    """Patient, note and file of each film."""
    card = load_card(Path(__file__).parent.parent / "data_cards/cxr_cohen.yaml")
    for raw in component("archive.readers", card.reader.kind).read(card.reader, root):
        if isinstance(raw, RawSample) and (sample := raw.sample).report:
            yield sample.patient, " ".join(sample.report.split()), Path(next(iter(raw.files.values())))


@torch.no_grad()
def embed_films(weights: str, paths: list[Path]) -> torch.Tensor:
    kind = component("encoders", "timm")
    before = {"size": [SIDE, SIDE], "mean": [0.5] * 3, "std": [0.5] * 3}
    given = {"kind": "timm", "net": "tf_efficientnet_lite0", "preprocess": before}
    config = kind.Config.model_validate({**given, "weights": weights, "allow_unexpected": ["classifier"]})
    tower, found = kind.build(config).eval(), []
    for path in paths:
        film = np.array(Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        found.append(tower((torch.from_numpy(film).float().permute(2, 0, 1) / 127.5 - 1)[None]).pooled[0])
    return torch.stack(found)


@torch.no_grad()
def embed_notes(model: str, notes: list[str]) -> torch.Tensor:
    from transformers import AutoModel, AutoTokenizer

    tokenizer, tower = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model, trust_remote_code=False)
    read = [tower.eval()(**tokenizer(note, return_tensors="pt", truncation=True, max_length=256)) for note in notes]
    return torch.stack([each.last_hidden_state[0].mean(0) for each in read])


def train(films_NE: torch.Tensor, notes_NT: torch.Tensor, texts: list[str], steps: int, seed: int) -> list[nn.Module]:
    torch.manual_seed(seed)
    heads = [nn.Linear(each.shape[1], WIDTH, bias=False) for each in (films_NE, notes_NT)]
    scale = nn.Parameter(torch.tensor(clip.start(clip.Config(kind="clip"))[0]))
    decayed = {"params": [head.weight for head in heads], "weight_decay": 0.01}
    optimizer = torch.optim.AdamW([decayed, {"params": [scale], "weight_decay": 0}], lr=RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    same_NN = torch.tensor([[a == b for b in texts] for a in texts])
    order: list[int] = []
    for _ in range(steps):
        while len(order) < BATCH:
            order += random.Random(f"{seed} {len(order)} {scale.item()}").sample(range(len(texts)), len(texts))
        drawn, order = order[:BATCH], order[BATCH:]
        films_BE, notes_BE = (
            normalize(head(each[drawn]), dim=-1) for head, each in zip(heads, (films_NE, notes_NT), strict=True)
        )
        same = same_NN[drawn][:, drawn]
        loss = clip.pair_loss(clip.Config(kind="clip"), films_BE, notes_BE, slice(0, BATCH), scale, None, same) / BATCH
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return heads


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", type=Path, required=True)
    asked.add_argument("--film", required=True)
    asked.add_argument("--text", required=True)
    asked.add_argument("--seeds", type=int, default=3)
    given = asked.parse_args()
    patients, notes, paths = map(list, zip(*read_pairs(given.data), strict=True))
    films_NE, notes_NT = embed_films(given.film, paths), embed_notes(given.text, notes)
    people = sorted(set(patients))
    print(f"{len(notes)} films of {len(people)} patients, {len(set(notes))} different notes, {FOLDS} folds")
    found: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    cluster: list[str] = []
    for seed in range(given.seeds):
        fold_of = {who: n % FOLDS for n, who in enumerate(random.Random(seed).sample(people, len(people)))}
        for fold in range(FOLDS):
            learns = [n for n, who in enumerate(patients) if fold_of[who] != fold]
            tests = [n for n, who in enumerate(patients) if fold_of[who] == fold]
            other = random.Random(f"{seed} {fold}").sample(learns, len(learns))
            candidates = list(dict.fromkeys(notes[n] for n in tests))
            is_right_QC = np.array([[notes[n] == each for each in candidates] for n in tests])
            of_candidate = [notes.index(each) for each in candidates]
            arms = ("trained", learns, STEPS), ("other notes", other, STEPS), ("untrained", learns, 0)
            for who, texts, steps in arms:
                film, note = train(films_NE[learns], notes_NT[texts], [notes[n] for n in texts], steps, seed)
                with torch.no_grad():
                    seen, read = normalize(film(films_NE[tests])), normalize(note(notes_NT[of_candidate]))
                rank = ranks((seen @ read.T).numpy(), is_right_QC)
                found[who] += [(1 / (r + 1), float(r < 1), float(r < 5), 1.0) for r in rank]
            count = len(candidates)
            by_chance = [sum(1 / np.arange(1, count + 1)) / count, 1 / count, chance_at(5, 1, count), 1.0]
            found["chance"] += [tuple(by_chance)] * len(tests)
            cluster += [patients[n] for n in tests]
    of = {who: np.array(each) for who, each in found.items()}
    for n, metric in enumerate(("mean reciprocal rank", "top 1", "top 5")):
        for who in ("trained", "other notes", "untrained"):
            own, gap = of[who][:, [n, 3]], np.stack([of[who][:, n] - of["chance"][:, n], of[who][:, 3]], 1)
            drawn = resample(gap, cluster, lambda sums_RK: sums_RK[:, 0] / sums_RK[:, 1])
            low, high = interval(drawn, float(gap[:, 0].mean()), len(people), (-1, 1))
            print(
                f"{metric}, {who}: {own[:, 0].mean():.3f}, chance {of['chance'][:, n].mean():.3f},"
                f" difference {gap[:, 0].mean():+.3f} [{low:.3f}, {high:.3f}]"
            )


if __name__ == "__main__":
    main()
