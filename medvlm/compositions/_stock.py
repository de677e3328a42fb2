"""Models of transformers, opened by folder or hub id and called through their own processors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize

from medvlm.compositions._opened import Hear, Opened, describe_computing
from medvlm.compositions._outside import OutsideModel, show, write_chat
from medvlm.core.ask import Ask, CutAnswer, Files
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.sample import Sample
from medvlm.core.turns import write_messages
from medvlm.core.weights import open_stock
from medvlm.data.dialogue import fill_template
from medvlm.models.generate import is_cut, list_end_ids


class StockAnswering(OutsideModel):
    """Any vision-language model of transformers, including adapters on a base model."""

    def __init__(self, where: str, device: str, spread: bool = False):
        """spread: over all devices, see Evaluate in recipe/schema.py. Raises RecipeError if transformers cannot open it
        as a vision-language model."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        base, adapters = _base_of(where)
        try:
            self.processor = open_stock(AutoProcessor, base)
            placed = {"device_map": "auto"} if spread else {}
            model = open_stock(AutoModelForImageTextToText, base, dtype="auto", **placed)
        except (OSError, ValueError) as reason:
            raise RecipeError(
                f"{where}: neither a run nor a vision-language model that transformers opens"
                f" ({str(reason).splitlines()[0]})"
            ) from None
        if adapters:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, where)
        self.model = (model if spread else model.to(device)).eval()

    def _describe_computing(self) -> Mapping[str, Any]:
        return describe_computing(self.model)

    def set_precision(self, dtype: torch.dtype) -> None:
        self.model.to(dtype)

    def answer(self, asks: Sequence[Ask]) -> list[str]:
        return [self._answer(ask) for ask in asks]

    def tell(self, ask: Ask, hear: Hear, temperature: float = 0.0, seed: int = 0) -> str:
        return self._answer(ask, hear) if temperature == 0 else super().tell(ask, hear, temperature, seed)

    def _answer(self, ask: Ask, hear: Hear | None = None) -> str:
        messages = write_chat(ask, lambda picture: {"type": "image", "image": picture})
        speaker, most = self.processor, self.max_new_tokens
        return _continue(self.model, speaker, speaker.tokenizer, messages, most, hear, self.spent)


def _continue(
    model: Any,
    speaker: Any,
    tokenizer: Any,
    messages: list[Any],
    max_new_tokens: int,
    hear: Hear | None = None,
    spent: list[tuple[int, int]] | None = None,
) -> str:
    """The greedy answer to messages that end with the user's. speaker: what has the chat template. spent: see Opened,
    for answers that are told."""
    inputs = fill_template(
        speaker,
        messages,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    # What a tokenizer returns has no numbers to cast, and no argument for it.
    inputs = inputs.to(model.device) if speaker is tokenizer else inputs.to(model.device, model.dtype)
    streamer = None if hear is None else _Streamer(speaker, hear)
    with torch.no_grad():
        out = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens, streamer=streamer)
    ids = out[0, inputs["input_ids"].shape[1] :].tolist()
    if spent is not None and hear is not None:
        spent.append((inputs["input_ids"].shape[1], len(ids)))
    text = str(speaker.decode(ids, skip_special_tokens=True)).strip()
    ends = list_end_ids(model.generation_config, tokenizer)
    return CutAnswer(text) if is_cut(ids, max_new_tokens, ends) else text


class _Streamer:
    """What generate() of transformers gives the prompt, and then each token."""

    def __init__(self, speaker: Any, hear: Hear):
        self._speaker, self._hear, self._said = speaker, hear, list[int]()
        self._has_prompt = False

    def put(self, ids: torch.Tensor) -> None:
        if self._has_prompt:
            self._said += ids.flatten().tolist()
        self._has_prompt = True
        self._hear(str(self._speaker.decode(self._said, skip_special_tokens=True)).strip())

    def end(self) -> None:
        """The answer is returned as a whole."""


def is_language_model(where: str) -> bool:
    """Whether a folder or hub id is a language model that takes no images. Raises RecipeError if there is none."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

    try:
        kind = type(open_stock(AutoConfig, _base_of(where)[0]))
    except (OSError, ValueError) as reason:
        raise RecipeError(f"{where}: no model that transformers opens ({str(reason).splitlines()[0]})") from None
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


class StockLanguage(Opened):
    """A language model of transformers with a chat template, which is asked in words alone."""

    can = frozenset({"answer"})

    def __init__(self, where: str, device: str):
        """Raises RecipeError if transformers cannot open it."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self.tokenizer = open_stock(AutoTokenizer, where)
            self.model = open_stock(AutoModelForCausalLM, where, dtype="auto").to(device).eval()
        except (OSError, ValueError) as reason:
            raise RecipeError(
                f"{where}: no language model that transformers opens ({str(reason).splitlines()[0]})"
            ) from None

    def _describe_computing(self) -> Mapping[str, Any]:
        return describe_computing(self.model)

    def answer(self, asks: Sequence[Ask]) -> list[str]:
        return [self._answer(ask) for ask in asks]

    def _answer(self, ask: Ask) -> str:
        assert ask.shows == "none", "a language model sees no images"
        messages = [{"role": m.role, "content": m.text} for m in write_messages(ask.question, [])[0]]
        return _continue(self.model, self.tokenizer, self.tokenizer, messages, self.max_new_tokens)


class StockTower(Opened):
    """A dual encoder or a vision tower of transformers, which embeds pictures."""

    def __init__(self, where: str, device: str):
        """Raises RecipeError if transformers cannot open it as one of these."""
        from transformers import AutoImageProcessor, AutoModel

        try:
            self.processor, tower = open_stock(AutoImageProcessor, where), open_stock(AutoModel, where)
        except (OSError, ValueError) as reason:
            raise RecipeError(
                f"{where}: neither a run nor a dual encoder or tower that transformers opens"
                f" ({str(reason).splitlines()[0]})"
            ) from None
        if hasattr(tower, "get_image_features") and not hasattr(tower, "get_text_features"):
            raise RecipeError(
                f"{where}: a vision-language model, which gives no vector for an image by itself; give a dual encoder"
                " or an encoder, e.g. one exported with --target encoder"
            )
        self.where, self.device, self.tower = where, device, tower.to(device).eval()

    def kind_of(self, axes: int, asked: str = "") -> str:
        return asked or "own"

    def embed_each(self, sample: Sample, files: Files) -> Iterator[torch.Tensor]:
        """Unit vectors of a dual encoder, or the pooled output of a tower, or else the mean of its tokens."""
        for medium in sample.media:
            shown = show(medium, files[medium.member])
            if len(shown) > 1:
                raise DataError(f"{sample.key} is a volume, and {self.where} takes only pictures")
            with torch.no_grad():
                yield self._embed(self.processor(images=shown, return_tensors="pt").to(self.device))

    def _embed(self, inputs: Any) -> torch.Tensor:
        if hasattr(self.tower, "get_image_features"):
            out = self.tower.get_image_features(**inputs)
            return normalize(out.pooler_output if hasattr(out, "pooler_output") else out, dim=-1)[0]
        out = self.tower(**inputs)
        pooled: torch.Tensor | None = out.get("pooler_output")
        tokens: torch.Tensor = out.last_hidden_state
        return tokens.mean(1)[0] if pooled is None else pooled.flatten(1)[0]


def _base_of(where: str) -> tuple[str, bool]:
    """The base model that the adapters in a folder name, and True; for a model without adapters, the model and
    False."""
    folder, adapters = Path(where), Path(where) / "adapter_config.json"
    if not adapters.is_file():
        return where, False
    beside = next((each for each in (folder / "base", folder.parent / "base") if each.is_dir()), None)
    return str(beside) if beside else str(json.loads(adapters.read_text())["base_model_name_or_path"]), True
