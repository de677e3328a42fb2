"""Red cells of a photograph, counted by a linear head on frozen features of ImageNet weights, in folds by image.

    python benchmarks/red_cells.py --data DIR --tower efficientnet_lite0.safetensors

--data: the folder of data_cards/bccd.yaml. --tower: weights of tf_efficientnet_lite0. The features are the means of the
first four stages over the photograph, at 240 x 320 pixels. The head is a ridge regression; its penalty is the one of
PENALTIES with the least leave-one-out error on the training images. Compared with the best constant of the training
images, with the photograph of another image, and with 16 x 16 grey pixels in place of the features.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from medvlm.core.card import load_card
from medvlm.core.config import component
from medvlm.core.contracts import RawSample
from medvlm.metrics.bootstrap import interval, resample

FOLDS, HEIGHT, WIDTH, STAGES = 3, 240, 320, [-5, -4, -3, -2]
PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


def read_counts(root: Path) -> tuple[list[Path], np.ndarray]:
    """The photographs, and the number of red cells that are marked in each."""
    card = load_card(Path(__file__).parent.parent / "data_cards/bccd.yaml")
    paths, counts = [], []
    for raw in component("archive.readers", card.reader.kind).read(card.reader, root):
        asked = {q.template: q.truth for q in raw.sample.questions} if isinstance(raw, RawSample) else {}
        truth: Any = asked.get("count:red blood cell") or asked.get("count:RBC")
        if truth is not None:
            paths.append(Path(next(iter(raw.files.values()))))
            counts.append(float(truth.count))
    return paths, np.array(counts)


@torch.no_grad()
def embed(weights: str, paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """The means of the stages [N, E], and small grey pixels [N, 256]."""
    kind = component("encoders", "timm")
    before = {"size": [HEIGHT, WIDTH], "mean": [0.5] * 3, "std": [0.5] * 3}
    given = {"kind": "timm", "net": "tf_efficientnet_lite0", "levels": STAGES, "preprocess": before}
    config = kind.Config.model_validate({**given, "weights": weights, "allow_unexpected": ["classifier"]})
    tower, found, grey = kind.build(config).eval(), [], []
    for path in paths:
        photo = Image.open(path).convert("RGB")
        pixels = np.array(photo.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
        seen = tower((torch.from_numpy(pixels).float().permute(2, 0, 1) / 127.5 - 1)[None])
        found.append(torch.cat([level.mean((2, 3))[0] for level in seen.levels]).numpy())
        grey.append(np.asarray(photo.convert("L").resize((16, 16), Image.Resampling.BOX), np.float64).ravel())
    return np.stack(found), np.stack(grey)


def predict(learns_NE: np.ndarray, counts_N: np.ndarray, tests_ME: np.ndarray) -> np.ndarray:
    """Ridge regression on standardized features, by its dual; the penalty by leave-one-out errors in closed form."""
    mean, std = learns_NE.mean(0), learns_NE.std(0) + 1e-6
    learns, tests, middle = (learns_NE - mean) / std, (tests_ME - mean) / std, counts_N.mean()
    values, vectors = np.linalg.eigh(learns @ learns.T)
    best: tuple[float, np.ndarray] | None = None
    for penalty in PENALTIES:
        inverse = vectors / (values + penalty) @ vectors.T
        weights = inverse @ (counts_N - middle)
        error = float(np.abs(weights / np.diag(inverse)).mean())
        if best is None or error < best[0]:
            best = error, weights
    assert best is not None
    return tests @ learns.T @ best[1] + middle


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", type=Path, required=True)
    asked.add_argument("--tower", required=True)
    asked.add_argument("--seeds", type=int, default=3)
    given = asked.parse_args()
    paths, counts = read_counts(given.data)
    features, grey = embed(given.tower, paths)
    errors: dict[str, list[np.ndarray]] = {}
    said = []
    for seed in range(given.seeds):
        order = random.Random(seed).sample(range(len(paths)), len(paths))
        fold = np.empty(len(paths), int)
        fold[order] = np.arange(len(paths)) % FOLDS
        found = {who: np.zeros(len(paths)) for who in ("head", "constant", "shuffled", "grey pixels")}
        for number in range(FOLDS):
            learns, tests = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            found["head"][tests] = predict(features[learns], counts[learns], features[tests])
            found["shuffled"][tests] = np.roll(found["head"][tests], 1)
            found["grey pixels"][tests] = predict(grey[learns], counts[learns], grey[tests])
            found["constant"][tests] = np.median(counts[learns])
        said.append(found["head"])
        for who, guess in found.items():
            errors.setdefault(who, []).append(np.abs(guess - counts))
    mean = {who: np.mean(of, 0) for who, of in errors.items()}
    images, ones = list(range(len(paths))), np.ones(len(paths))
    print(
        f"{len(paths)} photographs, {FOLDS} folds, {given.seeds} seeds; mean absolute error of the number of red cells"
    )
    for who, error in mean.items():
        print(f"{who}: {error.mean():.3f}")
    for who in ("constant", "shuffled", "grey pixels"):
        columns = np.stack([mean["head"], mean[who], ones], 1)
        drawn = resample(columns, images, lambda sums_RK: 1 - sums_RK[:, 0] / sums_RK[:, 1])
        value = float(1 - mean["head"].mean() / mean[who].mean())
        low, high = interval(drawn, value, len(paths))
        print(f"below {who} by {value:.3f} [{low:.3f}, {high:.3f}]")
    pairs = np.stack([np.mean(said, 0), counts], 1)
    correlation = float(np.mean([np.corrcoef(each, counts)[0, 1] for each in said]))
    columns = np.stack([*pairs.T, pairs[:, 0] ** 2, pairs[:, 1] ** 2, pairs[:, 0] * pairs[:, 1], ones], 1)
    low, high = interval(resample(columns, images, correlate), correlation, len(paths), (-1, 1))
    print(f"correlation: {correlation:.3f} [{low:.3f}, {high:.3f}]")


def correlate(sums_RK: np.ndarray) -> np.ndarray:
    """The correlation of two columns, from sums of x, y, x^2, y^2, xy and 1."""
    x, y, xx, yy, xy = (sums_RK[:, k] / sums_RK[:, 5] for k in range(5))
    found: np.ndarray = (xy - x * y) / np.sqrt(np.maximum((xx - x**2) * (yy - y**2), 1e-12))
    return found


if __name__ == "__main__":
    main()
