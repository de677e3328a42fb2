"""Models that medvlm opens, as a model of lmms-eval: `lmms-eval --model medvlm --model_args pretrained=FOLDER`.

lmms-eval finds `list_models` by the entry point `lmms_eval.models`, so medvlm only has to be installed beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest

from medvlm.compositions._open import open_model
from medvlm.compositions._opened import find
from medvlm.core.ask import Ask
from medvlm.core.errors import RecipeError
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.io.images import encode_png

CHUNK = 64
"""Questions that are asked together."""


def list_models() -> ModelManifest:
    return ModelManifest("medvlm", simple_class_path=f"{__name__}.Model")


class Model(lmms):  # type: ignore[misc]
    """pretrained: a run, a folder that `medvlm export` wrote, or a folder or hub id of transformers. kind: of media, as
    of `medvlm chat`. batch_size: ignored, medvlm chooses it by the length of the prompts. Answers are greedy."""

    def __init__(
        self, pretrained: str, kind: str = "", device: str = "auto", batch_size: Any = 1, **others: Any
    ) -> None:
        super().__init__()
        if others:
            raise RecipeError(f"model_args: unknown {', '.join(others)} (accepts pretrained, kind, device)")
        self._answerer: Any = find(open_model(pretrained, device=device), "answer")
        if self._answerer is None:
            raise RecipeError(f"{pretrained}: cannot answer questions")
        self._kind = kind

    def generate_until(self, requests: list[Any]) -> list[str]:
        answers: list[str] = []
        for start in range(0, len(requests), CHUNK):
            chunk = [request.args for request in requests[start : start + CHUNK]]
            limits = {settings.get("max_new_tokens", 256) for _, settings, *_ in chunk}
            self._answerer.max_new_tokens = max(limits)
            answers += map(str, self._answerer.answer([self._ask(*of) for of in chunk]))
        return answers

    def _ask(self, text: str, settings: Any, show: Any, number: int, task: str, split: str) -> Ask:
        pictures = [np.asarray(picture.convert("RGB")) for picture in show(self.task_dict[task][split][number]) or ()]
        kind = self._answerer.kind_of(2, self._kind) if pictures else ""
        media = tuple(Medium(kind, f"{n}.png", picture.shape[:2]) for n, picture in enumerate(pictures))
        files = {medium.member: encode_png(picture) for medium, picture in zip(media, pictures, strict=True)}
        question = Question(text.replace("<image>", "").strip(), make_truth("open"), "own")
        return Ask(Sample(f"{task}-{number}", task, split, media), files, question, "media" if media else "none")

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise RecipeError("medvlm answers questions and has no likelihoods for lmms-eval; choose a task that generates")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        raise RecipeError("medvlm answers single questions in lmms-eval; choose a task without several rounds")
