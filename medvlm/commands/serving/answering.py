"""What a served model does with a request: chat completions and embeddings, as JSON of OpenAI's API."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import SystemRandom
from typing import Any

import numpy as np

from medvlm.commands.files import read_media
from medvlm.commands.serving.refusal import Refusal, refuse_size
from medvlm.commands.serving.requests import ChatRequest, EmbeddingRequest, ImagePart, Said, TextPart
from medvlm.commands.serving.turnstile import Check
from medvlm.commands.serving.uploads import Room, decode_url, lend_media
from medvlm.core.ask import Ask, CutAnswer, Files, make_own_question
from medvlm.core.sample import Question, Sample, make_truth
from medvlm.core.text import MEDIUM

Json = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """images, pixels: of one request. new_tokens: of one answer."""

    images: int
    pixels: int
    new_tokens: int


@dataclass
class Served:
    """A model and its limits. answerer, embedder: opened models; None if it cannot do that. kind: of media, see
    Opened.kind_of. Used by one thread at a time."""

    name: str
    answerer: Any
    embedder: Any
    limits: Limits
    kind: str = ""

    def complete(self, request: ChatRequest, check: Check, send: Callable[[str], None]) -> Json:
        """A chat completion. send: called with each new piece of the answer. Raises Refusal and UserError."""
        if self.answerer is None:
            raise Refusal(400, "this model does not answer questions; it has /v1/embeddings")
        self._require_name(request.model)
        ask = self._make_ask(request.messages)
        asked = request.max_completion_tokens or request.max_tokens or self.limits.new_tokens
        self.answerer.max_new_tokens = min(asked, self.limits.new_tokens)
        seed = SystemRandom().randrange(2**31) if request.seed is None else request.seed
        sent = ""

        def hear(so_far: str) -> None:
            nonlocal sent
            check()
            whole = so_far.rstrip("\ufffd")
            if whole.startswith(sent) and len(whole) > len(sent):
                send(whole[len(sent) :])
                sent = whole

        self.answerer.spent.clear()
        text = self.answerer.tell(ask, hear, request.temperature, seed)
        if rest := text[len(sent) :]:
            send(rest)
        reason = "length" if isinstance(text, CutAnswer) else "stop"
        message = {"role": "assistant", "content": str(text), "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        return {**self.make_head("chat.completion"), "choices": [choice], **self._count_tokens()}

    def _count_tokens(self) -> Json:
        """`usage`, with all calls of a model that uses tools. Of a model that does not count, nothing."""
        if not self.answerer.spent:
            return {}
        prompt, answer = map(sum, zip(*self.answerer.spent, strict=True))
        return {"usage": {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}}

    def make_head(self, what: str) -> Json:
        """The keys that a completion and the chunks of a stream share."""
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": what,
            "created": int(time.time()),
            "model": self.name,
        }

    def embed(self, request: EmbeddingRequest, check: Check) -> Json:
        """Vectors of texts, and of images as data URLs. Raises Refusal and UserError."""
        if self.embedder is None:
            raise Refusal(400, "this model gives no embeddings; it has /v1/chat/completions")
        self._require_name(request.model)
        room, vectors = Room(self.limits.pixels), list[np.ndarray]()
        self._require_few(sum(each.startswith("data:") for each in request.input))
        for number, each in enumerate(request.input):
            check()
            name = f"input.{number}"
            if each.startswith("data:"):
                sample, files = self._read({name: decode_url(each, name)}, room, self.embedder)[0]
                vectors.append(next(iter(self.embedder.embed_each(sample, files))).float().cpu().numpy())
            else:
                vectors.append(self.embedder.embed_texts([make_own_question(each).text])[0])
        data = [
            {"object": "embedding", "index": number, "embedding": _write(vector, request.encoding_format)}
            for number, vector in enumerate(vectors)
        ]
        return {"object": "list", "model": self.name, "data": data}

    def _require_name(self, asked: str) -> None:
        if asked != self.name:
            raise Refusal(404, f"this server has one model, {self.name!r}", where="model")

    def _require_few(self, images: int) -> None:
        if images > self.limits.images:
            raise refuse_size(f"{images} images, of which this server takes {self.limits.images} in a request")

    def _read(self, files: Mapping[str, bytes], room: Room, opened: Any) -> tuple[tuple[Sample, Files], list[bool]]:
        """The sample with the media of these files, and of each file whether a medium begins with it. files: name in
        messages -> its bytes."""
        with lend_media(files, room) as media:
            own = [each for each in media if each is not None]
            sample, stored = read_media(own, lambda axes: opened.kind_of(axes, self.kind))
        return (sample, stored), [each is not None for each in media]

    def _make_ask(self, messages: Sequence[Said]) -> Ask:
        """The last message as a question about all images, after the messages before it."""
        urls = [part.image_url.url for said in messages for part in said.content if isinstance(part, ImagePart)]
        self._require_few(len(urls))
        names = [f"image {number + 1}" for number in range(len(urls))]
        files = {name: decode_url(url, name) for name, url in zip(names, urls, strict=True)}
        (sample, stored), is_shown = self._read(files, Room(self.limits.pixels), self.answerer)
        question = make_question(messages, iter(is_shown))
        return Ask(sample, stored, question, "media" if sample.media else "none")


def make_question(messages: Sequence[Said], is_shown: Iterator[bool]) -> Question:
    """The last of the user's turns, with those before it. is_shown: of each image, whether the model is shown it at its
    place. Raises Refusal for roles in another order: perhaps a system message, then the user and the assistant in
    turn."""
    system = ""
    if messages[0].role in ("system", "developer"):
        system, messages = _write_text(messages[0], iter(())), messages[1:]
    expected = [("user", "assistant")[number % 2] for number in range(len(messages))]
    if len(messages) % 2 == 0 or [said.role for said in messages] != expected:
        raise Refusal(
            400,
            "messages: expected perhaps a system message, then user and assistant in turn, and the user's as the last",
            where="messages",
        )
    texts = [_write_text(said, is_shown) for said in messages]
    turns: list[Question] = []
    for number, text in enumerate(texts[::2]):
        answer = texts[2 * number + 1] if 2 * number + 1 < len(texts) else ""
        turns.append(replace(make_own_question(text), truth=make_truth("open", answer), turn=number + 1))
    turns[0] = replace(turns[0], system=system)
    return replace(turns[-1], before=tuple(turns[:-1]))


def _write_text(said: Said, is_shown: Iterator[bool]) -> str:
    """Raises Refusal for images that the user did not send, and for text that is not Unicode."""
    pieces = []
    for part in said.content:
        if isinstance(part, TextPart):
            pieces.append(make_own_question(part.text).text.replace(MEDIUM, ""))
        elif said.role != "user":
            raise Refusal(400, f"messages: the {said.role} sends an image; only the user can", where="messages")
        elif next(is_shown):
            pieces.append(MEDIUM)
    return "".join(pieces)


def _write(vector: np.ndarray, form: str) -> str | list[float]:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(value) for value in vector]
