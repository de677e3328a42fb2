"""An OpenAI-compatible engine of our own, in the form of vLLM: it serves a copy of the model of a stage, takes adapters
over from a folder, and returns token ids with their log-probabilities, shifted on purpose."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.io.images import encode_png
from medvlm.models.generate import bar_words, find_end_ids, generate
from medvlm.models.parts import evaluating
from tests.openai_server import Reply, read_picture


class Engine:
    """shift: in nats, added to every log-probability. takes: whether it takes adapters over, and does not only say
    so. loaded: those that it was given, asked: requests for answers."""

    def __init__(self, stage: Any, shift: float = 0.0, takes: bool = True):
        self.model, self.prepare, self.tokenizer = (
            copy.deepcopy(stage.model),
            stage.setup.prepare,
            stage.setup.tokenizer,
        )
        self.shift, self.takes, self.lock = shift, takes, threading.Lock()
        self.loaded: list[str] = []
        self.unloaded: list[str] = []
        self.asked: list[dict[str, Any]] = []

    def reply(self, body: dict[str, Any]) -> Reply:
        with self.lock:
            if body["path"] == "/v1/unload_lora_adapter":
                self.unloaded.append(body["lora_name"])
                return 200, "Success"
            if body["path"] == "/v1/load_lora_adapter":
                self.loaded.append(body["lora_name"])
                if self.takes:
                    self._take(Path(body["lora_path"]))
                return 200, "Success"
            assert body["path"] == "/v1/chat/completions" and body["model"] == self.loaded[-1]
            self.asked.append(body)
            return 200, self._complete(body)

    def _take(self, folder: Path) -> None:
        own = dict(self.model.named_parameters())
        given = load_file(folder / "adapter_model.safetensors")
        assert len(given) == sum(".lora_" in name for name in own)
        for name, tensor in given.items():
            place = name.removeprefix("base_model.model.").replace(".weight", ".default.weight")
            own[place].data.copy_(tensor)

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        (message,) = body["messages"]
        pictures = [read_picture(part) for part in message["content"] if part["type"] == "image_url"]
        (text,) = (part["text"] for part in message["content"] if part["type"] == "text")
        media = tuple(Medium("film", f"{n}.png", picture.shape[:2]) for n, picture in enumerate(pictures))
        sample = Sample("own", "own", "", media)
        files = {m.member: encode_png(picture) for m, picture in zip(media, pictures, strict=True)}
        seen = self.prepare.see(sample, files)
        question = Question(text, make_truth("open"), "own")
        document = self.prepare.document(sample, [question], seen, ["media"], answered=False)
        n, most, pad, heat = body["n"], body["max_tokens"], self.tokenizer.pad_token_id, body["temperature"]
        uniform = np.random.default_rng(body["seed"]).random((most, n))
        ends = find_end_ids(self.model, self.tokenizer)
        with evaluating(self.model):
            batch = self.prepare.collate([document], pad, pack=False)
            drawn = generate(
                self.model,
                batch,
                max_new_tokens=most,
                end_ids=ends,
                copies=n,
                temperature=heat,
                draws=[uniform.__getitem__],
            )
            whole = self.prepare.collate([replace(document, branches=[(ids, 0) for ids in drawn])], pad)
            log_L = self.model(whole, partial(_read, model=self.model, heat=heat))["log_L"]
        given = log_L.split([len(ids) for ids in drawn])
        return {"choices": [self._describe(ids, log.tolist(), ends) for ids, log in zip(drawn, given, strict=True)]}

    def _describe(self, ids: list[int], log: list[float], ends: list[int]) -> dict[str, Any]:
        content = [{"token": f"token_id:{i}", "logprob": x + self.shift} for i, x in zip(ids, log, strict=True)]
        return {
            "message": {"content": self.tokenizer.decode(ids, skip_special_tokens=True)},
            "logprobs": {"content": content},
            "finish_reason": "stop" if ids[-1] in ends else "length",
        }


def _read(logits_LV: torch.Tensor, targets_L: torch.Tensor, model: Any, heat: float) -> dict[str, torch.Tensor]:
    masked = bar_words(logits_LV, model.barred_ids) / (heat or 1.0)
    return {"log_L": masked.log_softmax(-1).gather(-1, targets_L[:, None])[:, 0]}
