"""Draws answers from an OpenAI-compatible server that returns log-probabilities, as vLLM does.

The server runs the same base model. After each update the adapters are written to a folder that the server reads too,
and handed over (vLLM's `load_lora_adapter`). Then, and at the start, log-probabilities of the first prompts are
compared with those of the model in training; beyond the tolerance the run stops, since what it would learn from is not
what it believes to have drawn. Prompts go over the wire as messages with pictures, and are stored nowhere.

Not checked with vLLM itself. What it needs: `--enable-lora`, VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, `--logprobs-mode
processed_logprobs` at another temperature than 1, and a rank and targets that it serves.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from medvlm.core.connection import Address, Connection
from medvlm.core.errors import RecipeError
from medvlm.core.turns import Message, write_messages
from medvlm.data.order import draw
from medvlm.io.images import encode_png
from medvlm.models.generate import bar_words, find_end_ids, is_cut
from medvlm.models.parts import evaluating
from medvlm.rollouts._adapters import find_adapters, write_adapters
from medvlm.rollouts._contract import Answer, Parts, Prompt, RolloutsConfig, SamplingParams

TOKEN = "token_id:"
"""What vLLM calls a token if it is asked for `return_tokens_as_token_ids`."""
WHERE = "rollouts"


class Config(RolloutsConfig, Address):
    kind: Literal["server"]
    folder: str
    """Where adapters are written for the server."""
    folder_there: str = ""
    """The same folder as the server sees it, if it has another path there."""
    rename: dict[str, str] = {}
    """Beginnings of names of layers -> what the server calls them, e.g. {language.model.: model.language_model.}.
    Layers of a ready model have the names of its own class."""
    compare: int = Field(8, gt=0)
    """Prompts whose log-probabilities are compared."""
    tolerance: float = Field(0.02, gt=0)
    """Largest mean difference of the log-probabilities of their answers' tokens, in nats. Engines that compute in
    bfloat16 differ by about 0.01."""


def build(config: Config, parts: Parts) -> Served:
    return Served(config, parts)


class Served:
    """retries: how often something was sent again. gap: the last compared difference."""

    def __init__(self, config: Config, parts: Parts):
        self.config, self.parts = config, parts
        self._server: Connection | None = None
        self._given, self._adapter, self._number = "", "", 0
        self._fixed: list[Prompt] = []
        self.gap = 0.0

    def draw(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Answer]]:
        """Raises RecipeError for a server that does not answer in time, and for other log-probabilities than those of
        the model in training."""
        if len(self._fixed) < self.config.compare:
            self._fixed += [p for p in prompts if not p.reply][: self.config.compare - len(self._fixed)]
        if self._hand_over():
            self._compare(sampling)
        return self._ask_all(prompts, sampling)

    def take_counts(self) -> dict[str, float]:
        """What happened since the last call, for the log."""
        retries = self._server.retries if self._server else 0
        if self._server:
            self._server.retries = 0
        return {"server_retries": float(retries), "server_gap": self.gap}

    # --- adapters ----------------------------------------------------------------------------------

    def _hand_over(self) -> bool:
        """Gives the server the adapters if they have changed. Every rank calls it."""
        parts = self.parts
        adapters = find_adapters(parts.model, parts.engine.unshard, self.config.rename)
        digest = _hash(adapters)
        if digest == self._given:
            return False
        if self._server is None:
            self._server = Connection(self.config, WHERE)
            self._base = self._server.choose_model()
        before, self._number = self._adapter, self._number + 1
        self._adapter, self._given = f"medvlm-{parts.stage}-{self._number}", digest
        if parts.engine.is_first:
            folder = write_adapters(adapters, parts.model, self._base, Path(self.config.folder) / self._adapter)
            there = f"{self.config.folder_there or self.config.folder}/{folder.name}"
            self._server.tell("load_lora_adapter", {"lora_name": self._adapter, "lora_path": there})
            if before:
                self._server.tell("unload_lora_adapter", {"lora_name": before})
        parts.engine.barrier()
        return True

    # --- answers -----------------------------------------------------------------------------------

    def _ask_all(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Answer]]:
        with ThreadPool(self.config.parallel) as pool:
            return pool.map(lambda prompt: self._ask(prompt, sampling), prompts, chunksize=1)

    def _ask(self, prompt: Prompt, sampling: SamplingParams) -> list[Answer]:
        assert self._server is not None and prompt.question is not None
        pictures = self.parts.prepare.show(prompt.sample, prompt.files)
        messages, shown = write_messages(prompt.question, pictures)
        name = (prompt.position, prompt.attempt, prompt.reply, prompt.copy)
        request = {
            "model": self._adapter,
            "messages": list(_write(messages, iter([_encode(picture) for picture in shown]))),
            "n": sampling.copies,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_new_tokens,
            "seed": int(draw(self.parts.seed, self.parts.stage, "served", *name).integers(2**31)),
            "logprobs": True,
            "return_tokens_as_token_ids": True,
            "logit_bias": {str(i): -100 for i in self.parts.model.barred_ids},
        }
        reply = self._server.send("chat/completions", request)
        try:
            answers = [_read(choice) for choice in reply["choices"]]
        except (KeyError, IndexError, TypeError, AttributeError, ValueError):
            raise RecipeError(
                f"{self.config.url}: returned no token ids with log-probabilities; use a server that does, such as vLLM"
            ) from None
        ends = find_end_ids(self.parts.model, self.parts.tokenizer)
        for answer in answers:
            if not is_cut(answer.ids, sampling.max_new_tokens, ends) and answer.ids[-1:] not in [[i] for i in ends]:
                raise RecipeError(
                    f"{self.config.url}: an answer ends without an end token ({answer.ids[-3:]}; expected one of"
                    f" {ends}); use a server that returns it, with the chat template of the model"
                )
        return answers

    # --- comparison --------------------------------------------------------------------------------

    def _compare(self, sampling: SamplingParams) -> None:
        once = replace(sampling, copies=1)
        drawn = [answer for (answer,) in self._ask_all(self._fixed, once)]
        own = self._compute(self._fixed, drawn, sampling.temperature or 1.0)
        given = [x for answer in drawn for x in answer.log_probabilities or ()]
        distance = sum(abs(a - b) for a, b in zip(own, given, strict=True))
        total, count = self.parts.engine.sum_over_ranks([distance, len(own)])
        self.gap = total / count if count else 0.0
        if self.gap > self.config.tolerance:
            raise RecipeError(
                f"{WHERE}: the server's log-probabilities differ from those of the model in training by {self.gap:.4f}"
                f" nats per token on {len(self._fixed)} fixed prompts, more than rollouts.tolerance"
                f" ({self.config.tolerance}); check that it runs the same weights, precision, chat template and"
                " temperature, and that it took over the adapters"
            )

    def _compute(self, prompts: Sequence[Prompt], answers: Sequence[Answer], temperature: float) -> list[float]:
        parts = self.parts

        def read(logits_LV: torch.Tensor, targets_L: torch.Tensor) -> dict[str, torch.Tensor]:
            masked_LV = bar_words(logits_LV, parts.model.barred_ids).float() / temperature
            return {"log_L": masked_LV.log_softmax(-1).gather(-1, targets_L[:, None])[:, 0]}

        with evaluating(parts.model), parts.engine.gather_weights(parts.model):
            if not prompts:
                return []
            documents = [p.add_answers([answer]) for p, answer in zip(prompts, answers, strict=True)]
            batch = parts.prepare.collate(documents, parts.tokenizer.pad_token_id).to(parts.engine.device)
            return [float(x) for x in parts.model(batch, read)["log_L"].cpu()]


def _hash(adapters: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(adapters):
        digest.update(name.encode() + adapters[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _write(messages: Iterable[Message], pictures: Any) -> Iterable[dict[str, Any]]:
    for message in messages:
        parts = [
            {"type": "image_url", "image_url": {"url": next(pictures)}}
            if part is None
            else {"type": "text", "text": part}
            for part in message.parts
        ]
        yield {"role": message.role, "content": parts}


def _encode(picture: Any) -> str:
    return f"data:image/png;base64,{base64.b64encode(encode_png(picture)).decode()}"


def _read(choice: Mapping[str, Any]) -> Answer:
    """Raises ValueError for tokens that are not named by their ids."""
    tokens = choice["logprobs"]["content"]
    if not tokens or not all(each["token"].startswith(TOKEN) for each in tokens):
        raise ValueError("no token ids")
    ids = [int(each["token"].removeprefix(TOKEN)) for each in tokens]
    return Answer(ids, tuple(float(each["logprob"]) for each in tokens))
