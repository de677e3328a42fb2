"""The `nearest` baseline: the answer of the training sample whose image looks most like this one.

Images are compared as small grey pictures of what the model sees, and not by the model's own features, so that the
baseline is the same for every model with the same view and says what can be had without learning.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np

from medvlm.core.ask import Ask
from medvlm.core.protocols import Asked, Split
from medvlm.core.sample import Question
from medvlm.core.tasks import find_task
from medvlm.core.turns import list_asked
from medvlm.evaluate.protocols._majority import Family, find_family, spread
from medvlm.evaluate.ranks import compute_once

MOST_SAMPLES = 1000
"""Maximum number of training samples that are compared with, at equal distances."""
GRID = 16
"""Height and width of the small pictures."""


@dataclass(frozen=True)
class Nearest:
    """By (template, group of measures): the pictures [N, GRID * GRID] of training samples and their N answers."""

    model: Asked
    pictures: dict[Family, np.ndarray]
    answers: dict[Family, list[str]]

    def answer(self, ask: Ask) -> str | None:
        """That of the first of the most similar samples; None without an image, or where training does not ask this."""
        family = find_family(ask.question)
        if family not in self.answers or not ask.sample.media:
            return None
        similarity_N = self.pictures[family] @ shrink(self.model, ask)
        return self.answers[family][int(similarity_N.argmax())]


def fit_nearest(model: Asked, split: Split, is_asked: Callable[[Question], bool]) -> Nearest:
    """is_asked: whether the model answers a question. Without training samples it answers nothing and the user is
    told."""
    if not split.training():
        split.notes.append("no nearest baseline, because there are no training samples")
    return Nearest(model, *compute_once(lambda: _fit(model, split, is_asked)))


def _fit(
    model: Asked, split: Split, is_asked: Callable[[Question], bool]
) -> tuple[dict[Family, np.ndarray], dict[Family, list[str]]]:
    """The pictures and answers of a Nearest."""
    pictures: dict[Family, list[np.ndarray]] = defaultdict(list)
    answers: dict[Family, list[str]] = defaultdict(list)
    places = spread(split.training(), MOST_SAMPLES)
    for done, place in enumerate(places):
        sample, files = split.shards.read(*place)
        asks = [Ask(sample, files, question) for question in list_asked(sample) if is_asked(question)]
        if asks and sample.media:
            picture = shrink(model, asks[0])
            for family, truth in ((find_family(ask.question), ask.question.truth) for ask in asks):
                pictures[family].append(picture)
                answers[family].append(find_task(truth.task).write(truth))
        split.progress("nearest", done + 1, len(places))
    return {family: np.stack(found) for family, found in pictures.items()}, dict(answers)


def shrink(model: Asked, ask: Ask) -> np.ndarray:
    """What the model sees as a small grey picture, float64 [GRID * GRID] of mean 0 and length 1, so that brightness and
    contrast do not count; 0 where all is equal."""
    from PIL import Image

    image = Image.open(BytesIO(model.draw_thumbnail(ask))).convert("L").resize((GRID, GRID), Image.Resampling.BOX)
    flat = np.asarray(image, dtype=np.float64).ravel()
    flat -= flat.mean()
    length = float(np.sqrt(np.square(flat).sum()))
    return flat / length if length else flat
