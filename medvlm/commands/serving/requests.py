"""The bodies of requests, as OpenAI's API has them. Settings that would change an answer and are not supported are
refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medvlm.commands.serving.refusal import Refusal, refuse_size

IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier")
"""Settings that do not change an answer."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "top_p": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "parallel_tool_calls": (True, False),
    "stop": ([],),
}
"""Settings that are not supported, with the values that change nothing. Null changes nothing either."""
MOST_VALUES = 100_000
"""Of a body. Millions of tiny ones take seconds and gigabytes to read, in which the server answers nobody else."""
COLD = 1e-5
"""Below this temperature the likeliest token is always drawn, and scores divided by it overflow."""


class Body(BaseModel):
    """Null is the same as a key that is left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_null(cls, body: Any) -> Any:
        return {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body


class TextPart(Body):
    type: Literal["text"]
    text: str


class Url(Body):
    url: str
    detail: Literal["auto", "low", "high"] = "auto"
    """Ignored: the model has its own preprocessing."""


class ImagePart(Body):
    type: Literal["image_url"]
    image_url: Url


class Said(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]
    name: str = ""

    @field_validator("content", mode="before")
    @classmethod
    def _write_as_parts(cls, content: Any) -> Any:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content


class _Asked(Body):
    model: str

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        return {
            name: value
            for name, value in body.items()
            if not (name in IGNORED or any(value == neutral for neutral in NEUTRAL.get(name, ())))
        }


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: bool = False
    """Ignored."""


class ChatRequest(_Asked):
    """temperature: 0 by default, as in `medvlm evaluate`, and not 1; 0 below COLD."""

    messages: list[Said] = Field(min_length=1)
    max_tokens: int | None = Field(None, gt=0)
    max_completion_tokens: int | None = Field(None, gt=0)
    temperature: float = Field(0.0, ge=0, le=2)
    seed: int | None = Field(None, ge=0)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    @field_validator("temperature")
    @classmethod
    def _be_greedy(cls, temperature: float) -> float:
        return temperature if temperature >= COLD else 0.0


class EmbeddingRequest(_Asked):
    """input: texts, and images as data URLs."""

    input: list[str] = Field(min_length=1, max_length=2048)
    encoding_format: Literal["float", "base64"] = "float"

    @field_validator("input", mode="before")
    @classmethod
    def _write_as_list(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given


Kind = TypeVar("Kind", bound=Body)


def read_body(kind: type[Kind], data: bytes) -> Kind:
    """Raises Refusal for the first thing that is wrong with a body. The message has nothing of its text."""
    if sum(map(data.count, (b"{", b"[", b","))) > MOST_VALUES:
        raise refuse_size(f"a request of more than {MOST_VALUES:,} commas and brackets")
    try:
        return kind.model_validate_json(data)
    except ValidationError as wrong:
        first = wrong.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    known = first["type"] != "extra_forbidden"
    what = first["msg"] if known else "is not supported by this server; leave it out"
    raise Refusal(400, f"{where}: {what}" if where else f"the request: {what}", where=where or None)
