"""The HTTP side of the server: routes, tokens, sizes, errors and streams.

It writes no file, and its log has the method, path, status and seconds of a request: no text, no header, no address.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from medvlm.commands.serving.answering import Json, Served
from medvlm.commands.serving.refusal import Refusal, refuse_size, refuse_slow
from medvlm.commands.serving.requests import ChatRequest, EmbeddingRequest, read_body
from medvlm.commands.serving.turnstile import Check, Ticket, Turnstile
from medvlm.core.connection import is_loopback
from medvlm.core.errors import UserError

LOOK_S = 0.5
"""How often is looked whether a client is still there."""
READ_S = 10.0
"""How long a client may take to read the end of a stream. One that reads nothing would keep its place for ever."""
Handler = Callable[[Request], Awaitable[Response]]


def make_app(
    served: Served, turnstile: Turnstile, token: str, most_bytes: int, log: Callable[[str], None]
) -> Starlette:
    """token: that requests must bring; "" for none, and then only this machine may ask. most_bytes: of a body."""
    routes = Routes(served, turnstile, most_bytes, log)
    guard = partial(_guard, token=token, log=log)
    return Starlette(
        routes=[
            Route("/v1/models", guard(routes.list_models), methods=["GET"]),
            Route("/v1/chat/completions", guard(routes.complete), methods=["POST"]),
            Route("/v1/embeddings", guard(routes.embed), methods=["POST"]),
        ],
        exception_handlers={HTTPException: _answer_stray},
    )


class Routes:
    def __init__(self, served: Served, turnstile: Turnstile, most_bytes: int, log: Callable[[str], None]):
        self.served, self.turnstile, self.most_bytes, self.log = served, turnstile, most_bytes, log
        self.started = int(time.time())

    async def list_models(self, request: Request) -> Response:
        model = {"id": self.served.name, "object": "model", "created": self.started, "owned_by": "medvlm"}
        return JSONResponse({"object": "list", "data": [model]})

    async def embed(self, request: Request) -> Response:
        with self.turnstile.admit() as ticket:
            data = await self._read(request, ticket)

            def work(check: Check) -> Json:
                return self.served.embed(read_body(EmbeddingRequest, data), check)

            return JSONResponse(await _unless_gone(request, ticket.run(work)))

    async def complete(self, request: Request) -> Response:
        with ExitStack() as stack:
            ticket = stack.enter_context(self.turnstile.admit())
            asked = read_body(ChatRequest, await self._read(request, ticket))
            if not asked.stream:
                work = partial(self.served.complete, asked, send=lambda piece: None)
                return JSONResponse(await _unless_gone(request, ticket.run(work)))
            events = self._stream(asked, ticket)
            first = await _unless_gone(request, anext(events))  # what is wrong with a request has a status of its own
            return Stream(_write_events(first, events, self.log), stack.pop_all(), ticket.left_s + READ_S)

    async def _stream(self, asked: ChatRequest, ticket: Ticket) -> AsyncIterator[Json]:
        """The chunks of a completion."""
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[str | None]()

        def send(piece: str | None) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        running = asyncio.ensure_future(ticket.run(partial(self.served.complete, asked, send=send)))
        running.add_done_callback(lambda _: pieces.put_nowait(None))
        head = self.served.make_head("chat.completion.chunk")
        asks_usage = asked.stream_options.include_usage
        head |= {"usage": None} if asks_usage else {}
        delta: Json = {"role": "assistant", "content": ""}
        try:
            while (piece := await pieces.get()) is not None:
                yield _make_chunk(head, {**delta, "content": piece})
                delta = {}
            answer = await running
            (choice,) = answer["choices"]
            yield _make_chunk(head, delta, choice["finish_reason"])
            if asks_usage:
                yield {**head, "choices": [], "usage": answer.get("usage")}
        finally:
            running.cancel()

    async def _read(self, request: Request, ticket: Ticket) -> bytes:
        """The body. Raises Refusal for one that is too large, too slow, or not JSON."""
        # A page in a browser can post other types to this machine without being asked for permission.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "the Content-Type must be application/json")
        found = bytearray()
        try:
            async with asyncio.timeout(ticket.left_s):
                async for part in request.stream():
                    found += part
                    if len(found) > self.most_bytes:
                        raise refuse_size(f"a request of more than {self.most_bytes >> 20} MiB")
        except TimeoutError:
            raise refuse_slow(ticket.seconds) from None
        return bytes(found)


def _make_chunk(head: Json, delta: Json, reason: str | None = None) -> Json:
    return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


class Stream(StreamingResponse):
    """stack: is closed at the end, also if the client goes away before the first event is sent. seconds: after
    which the stream is cut."""

    def __init__(self, events: AsyncIterator[str], stack: ExitStack, seconds: float):
        super().__init__(events, media_type="text/event-stream")
        self._stack, self._seconds = stack, seconds
        self.note_end: Callable[[], None] = lambda: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._stack, suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await super().__call__(scope, receive, send)
        finally:
            self.note_end()


async def _write_events(first: Json, events: AsyncIterator[Json], log: Callable[[str], None]) -> AsyncIterator[str]:
    """As server-sent events."""
    yield _write_event(first)
    try:
        async for event in events:
            yield _write_event(event)
    except Exception as raised:
        yield _write_event(_explain(raised, log).to_json())
    yield "data: [DONE]\n\n"


def _write_event(content: Json) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


async def _unless_gone(request: Request, work: Awaitable[Json]) -> Json:
    """The result of `work`, which is cancelled if the client goes away. Raises ClientDisconnect then."""
    running = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([running], timeout=LOOK_S))[0]:
            if await request.is_disconnected():
                raise ClientDisconnect
        return running.result()
    finally:
        running.cancel()


def _guard(handler: Handler, token: str, log: Callable[[str], None]) -> Handler:
    async def guarded(request: Request) -> Response:
        began = time.monotonic()
        try:
            _check_client(request, token)
            answer = await handler(request)
        except ClientDisconnect:
            answer = Response(status_code=499)
        except Exception as raised:
            refusal = _explain(raised, log)
            answer = JSONResponse(refusal.to_json(), refusal.status)

        def note_end() -> None:
            log(f"{request.method} {request.url.path} {answer.status_code} {time.monotonic() - began:.1f} s")

        if isinstance(answer, Stream):
            answer.note_end = note_end  # with its last token, and not with its first
        else:
            note_end()
        return answer

    return guarded


def _check_client(request: Request, token: str) -> None:
    """Raises Refusal for a request without the token. Without a token, for one with a name of another machine: it comes
    from a page in a browser whose name was made to point here."""
    if token:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), token.encode()):
            raise Refusal(401, "this server needs its token: Authorization: Bearer TOKEN", "authentication_error")
    elif not is_loopback(_find_host(request)):
        raise Refusal(403, "without a token this server answers to localhost only", "permission_error")


def _find_host(request: Request) -> str:
    """The name of this server as the client wrote it, "" if it cannot be read."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


async def _answer_stray(request: Request, raised: Any) -> Response:
    """Of paths and methods that there are not."""
    paths = "GET /v1/models, POST /v1/chat/completions and POST /v1/embeddings"
    return JSONResponse(Refusal(raised.status_code, f"this server has {paths}").to_json(), raised.status_code)


def _explain(raised: Exception, log: Callable[[str], None]) -> Refusal:
    """What to answer. An error of ours is logged, by its type and place, because its message may quote the request."""
    if isinstance(raised, Refusal):
        return raised
    if isinstance(raised, UserError):
        return Refusal(400, str(raised))
    *_, (frame, line) = traceback.walk_tb(raised.__traceback__)
    where = f"{frame.f_globals.get('__name__', '')}:{line}"  # a path would show folders of this machine
    message = f"an error of this server: {type(raised).__name__} in {where}"
    log(message)
    return Refusal(500, message, "server_error")
