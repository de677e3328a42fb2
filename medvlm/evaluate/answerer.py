"""A trained run that answers, shows what it saw, and embeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from medvlm.core.config import component
from medvlm.core.errors import CheckpointError
from medvlm.core.run import RunFolder
from medvlm.core.sample import Sample, Truth
from medvlm.core.stage_config import Lora
from medvlm.data.dialogue import Dialogue, document
from medvlm.data.native import NativePrepare, Processor, make_native_prepare
from medvlm.data.prepare import Prepare, Seen, make_prepare
from medvlm.io.images import encode_png
from medvlm.models.generate import Answering, end_ids, generate
from medvlm.models.native import build_native
from medvlm.models.parts import evaluating, preprocess_of, tokens_of
from medvlm.models.restore import put
from medvlm.models.towers import DualEncoder, build_dual
from medvlm.models.vlm import build_vlm
from medvlm.tasks._writing import Writing
from medvlm.train import checkpoint

if TYPE_CHECKING:
    import numpy as np

    from medvlm.evaluate.protocol import Ask

BATCH = 64


class RunAnswerer:
    """The state of a run after a stage: a vision-language model, a dual encoder, or both."""

    def __init__(
        self,
        prepare: Prepare,
        tokenizer: Any,
        vlm: Answering | None,
        dual: DualEncoder | None,
        text_tokenizer: Any,
        max_new_tokens: int,
    ):
        self.prepare, self.tokenizer, self.vlm, self.dual = prepare, tokenizer, vlm, dual
        self.text_tokenizer, self.max_new_tokens = text_tokenizer, max_new_tokens

    @property
    def can_answer(self) -> bool:
        return self.vlm is not None

    def box_extent(self, ask: Ask) -> tuple[float, float]:
        canvas = self.prepare.see(ask.sample, ask.files).canvas
        return self.prepare.boxes.extent(canvas) if canvas else (1.0, 1.0)

    def answer(self, asks: Sequence[Ask]) -> list[str]:
        """Greedy answers. Sorting by length would pad less, but answers must not depend on their neighbours' order:
        batches are as asked."""
        assert self.vlm is not None
        texts: list[str] = []
        for at in range(0, len(asks), BATCH):
            texts += self._answer(asks[at : at + BATCH])
        return texts

    def seen(self, ask: Ask) -> Truth:
        return self.prepare.truth(ask.question, self.prepare.see(ask.sample, ask.files).canvas)

    def thumbnail(self, ask: Ask) -> bytes:
        """What the model saw of medium 0, as PNG: a film whole, of a volume the middle slice."""
        return encode_png(self.prepare.picture(ask.sample, ask.files))

    def embed_media(self, items: Sequence[tuple[Sample, Mapping[str, bytes]]]) -> np.ndarray | None:
        if self.dual is None:
            return None
        rows: list[torch.Tensor] = []
        with evaluating(self.dual):
            for sample, files in items:
                name, pixels = self.prepare.see(sample, files).media[0]
                rows.append(self.dual.embed_media({name: pixels[None].to(self._device)})[0].float().cpu())
        return torch.stack(rows).numpy()

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray | None:
        if self.dual is None:
            return None
        rows: list[torch.Tensor] = []
        with evaluating(self.dual):
            for text in texts:
                ids = torch.tensor([self.text_tokenizer(text).input_ids], device=self._device)
                rows.append(self.dual.embed_texts(ids, torch.ones_like(ids))[0].float().cpu())
        return torch.stack(rows).numpy()

    @property
    def _device(self) -> torch.device:
        model: Any = self.vlm or self.dual
        return next(model.parameters()).device  # type: ignore[no-any-return]

    def _answer(self, asks: Sequence[Ask]) -> list[str]:
        assert self.vlm is not None
        documents = []
        perceived_once: dict[str, Seen] = {}  # questions about one sample share its pixels, so they are encoded once
        for ask in asks:
            sample, files = ask.media_of or (ask.sample, ask.files)
            if sample.key not in perceived_once:
                perceived_once[sample.key] = self.prepare.see(sample, files)
            seen = perceived_once[sample.key]
            shows = ["media"] if ask.shows == "media" else []
            turn = self.prepare.turn(ask.sample, ask.question, seen, shows, answered=False)
            documents.append(document(ask.sample.key, [turn], seen.media if shows else []))
        batch = self.prepare.collate(documents, self.tokenizer.pad_token_id, pack=False).to(self._device)
        with evaluating(self.vlm):
            ids = generate(
                self.vlm, batch, max_new_tokens=self.max_new_tokens, end_ids=end_ids(self.vlm, self.tokenizer)
            )
        return [str(self.tokenizer.decode(i, skip_special_tokens=True)).strip() for i in ids]


def load_run(recipe: Any, run: RunFolder, max_new_tokens: int, stage: str = "", device: str = "cpu") -> RunAnswerer:
    """The model as `stage` (by default the last finished one) left it.

    recipe: anything with `seed`, `stages` and `model` (medvlm.recipe.Recipe).

    Raises CheckpointError when no stage is finished or a checkpoint is damaged.
    """
    finished = {s.name: s for s in recipe.stages if (run.stage(s.name) / "stage.json").exists()}
    if not finished:
        raise CheckpointError(f"{run.root.name}: no finished stage; train it first")
    if stage and stage not in finished:
        raise CheckpointError(f"{run.root.name}: stage {stage!r} is not finished (finished: {', '.join(finished)})")
    upto = list(finished.values())[: list(finished).index(stage) + 1] if stage else list(finished.values())
    model, encoders = recipe.model, recipe.model.encoders
    tokenizer, prepare = _prepare(model, run)
    vlm: Answering | None = None
    dual, text_tokenizer = None, None
    generative = [s for s in upto if component("stages", s.kind).NEEDS == "answer"]
    if generative and isinstance(prepare, NativePrepare):
        vlm = build_native(run.tokenizer, prepare.processor.blank(), recipe.seed, weights=False)
    elif generative:
        vlm = build_vlm(encoders, model.language, tokenizer, tokenizer.image_token, recipe.seed)
    if vlm is not None:
        _fill(vlm, run, generative[-1].name)
        vlm.to(device)
    pairs = [s for s in upto if component("stages", s.kind).NEEDS == "embed"]
    if pairs:
        last, objective = pairs[-1], component("objectives.pairs", pairs[-1].loss.kind)
        text_tokenizer = component("texts", last.text.kind).tokenizer(last.text, tokenizer)
        log_scale, bias = objective.start(last.loss)
        dual = build_dual(encoders, last.text, text_tokenizer, last.width, log_scale, bias, recipe.seed)
        _fill(dual, run, last.name)
        dual.to(device)
    return RunAnswerer(prepare, tokenizer, vlm, dual, text_tokenizer, max_new_tokens)


def _prepare(model: Any, run: RunFolder) -> tuple[Any, Prepare]:
    """Tokenizer and data path as training left them in the run's folder."""
    if model.pretrained:
        processor = Processor(run.tokenizer)
        return processor.tokenizer, make_native_prepare(processor, model.views, model.boxes.codec, model.boxes.scale)
    tokenizer: Any = None
    dialogue = None
    if run.tokenizer.exists():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(run.tokenizer)
    if model.language:
        dialogue = Dialogue(tokenizer, tokenizer.image_token)
    writing = Writing(model.boxes.codec or "thousandths", model.boxes.scale)
    return tokenizer, make_prepare(
        model.encoders, preprocess_of(model.encoders), tokens_of(model.encoders), dialogue, writing
    )


def _fill(model: Any, run: RunFolder, stage: str) -> None:
    folder = taken(run.stage(stage))
    adapters = checkpoint.read_state(folder)["meta"]["adapters"]
    put(model, checkpoint.read_weights(folder), Lora(**adapters) if adapters else None, f"{stage}/{folder.name}")


def taken(stage_folder: Path) -> Path:
    """The checkpoint that a finished stage hands on."""
    return stage_folder / str(json.loads((stage_folder / "stage.json").read_text())["take"])
