"""Answers to requests that cannot be served, in OpenAI's form."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """status: of HTTP. kind: OpenAI's type of error. where: the parameter of the request that is wrong, if one is."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error", where: str | None = None):
        super().__init__(message)
        self.status, self.message, self.kind, self.where = status, message, kind, where

    def to_json(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.where, "code": None}}


def refuse_busy(waiting: int) -> Refusal:
    return Refusal(429, f"{waiting} requests are waiting already; send this one again later", "rate_limit_error")


def refuse_slow(seconds: float) -> Refusal:
    return Refusal(503, f"the answer took more than the {seconds:g} s that this server allows", "timeout")


def refuse_size(what: str) -> Refusal:
    return Refusal(413, f"{what}; the limits are those of medvlm serve")
