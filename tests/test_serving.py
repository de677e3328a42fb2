"""`medvlm serve`: OpenAI's own client gets the answers and vectors of `medvlm chat`, `embed` and `evaluate`."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import resource
import sys
import threading
import time
import tracemalloc
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import openai
import pytest
import uvicorn

from medvlm.commands.chat import talk
from medvlm.commands.evaluate import evaluate
from medvlm.commands.files import read_files
from medvlm.commands.serving import app
from medvlm.commands.serving.answering import Served
from medvlm.commands.serving.refusal import Refusal
from medvlm.commands.serving.requests import ChatRequest, read_body
from medvlm.commands.serving.run import Place, allow_files, open_served
from medvlm.commands.serving.turnstile import Turnstile
from medvlm.commands.serving.uploads import decode_url
from medvlm.core.errors import RecipeError
from medvlm.preflight.rehearsal.ready import save_tiny
from tests.evaluate.test_who import EVALUATE, FILMS, ON_FILMS, read_answers, strip
from tests.io.dicom.series import save, slices
from tests.test_chatting import made  # noqa: F401
from tests.tiny_run import recipe, written

LIMIT = 16
TOKEN = "a-token-of-a-test-0123456789"


@contextmanager
def serving(served: Served, *, token: str = "", mib: int = 8, seconds: float = 60, waiting: int = 4) -> Iterator[Any]:
    """A server in a thread. Yields its address, and the lines of its log."""
    log: list[str] = []
    turnstile = Turnstile(waiting, seconds)
    listening = Place("127.0.0.1", 0, None).listen()
    config = uvicorn.Config(app.make_app(served, turnstile, token, mib << 20, log.append), log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1", log
    finally:
        server.should_exit = True
        thread.join(30)
        turnstile.close()
        listening.close()


def open_model(folder: Path, **limits: Any) -> Served:
    served = open_served(str(folder), "", "", "", LIMIT, 16, 1)
    return replace(served, limits=replace(served.limits, **limits))


def show(*files: Path) -> list[dict[str, Any]]:
    kinds = {".png": "image/png", ".gz": "application/gzip"}
    urls = [write_url(file.read_bytes(), kinds.get(file.suffix, "application/dicom")) for file in files]
    return [{"type": "image_url", "image_url": {"url": url}} for url in urls]


def list_files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    assert found
    return found


def write_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def ask(url: str, parts: list[dict[str, Any]], question: str = "Where?", **settings: Any) -> Any:
    client = openai.OpenAI(base_url=url, api_key=TOKEN, max_retries=0)
    content: Any = [*parts, {"type": "text", "text": question}]
    (model,) = client.models.list().data
    return client.chat.completions.create(model=model.id, messages=[{"role": "user", "content": content}], **settings)


@pytest.fixture(scope="module")
def ours(made: dict[str, Path]) -> Iterator[Any]:  # noqa: F811
    with serving(open_model(made["ours"])) as there:
        yield there


@pytest.mark.parametrize(("name", "least"), [("llava", 3), ("ours", 1)])  # the other writes half characters mostly
def test_it_answers_as_chat_does(name: str, least: int, made: dict[str, Path]) -> None:  # noqa: F811
    expected = talk(str(made[name]), [made["film.png"]], max_new_tokens=LIMIT)("Where?")
    with serving(open_model(made[name])) as (url, log):
        found = ask(url, show(made["film.png"]))
        usage: Any = {"include_usage": True}
        *stream, last = ask(url, show(made["film.png"]), stream=True, max_tokens=50, stream_options=usage)
    assert found.choices[0].message.content == expected and found.choices[0].finish_reason == "length"
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == expected and sum(map(bool, pieces)) >= least, "the server's limit holds, piece by piece"
    assert stream[-1].choices[0].finish_reason == "length" and last.choices == [] and stream[-1].usage is None
    assert found.usage == last.usage and found.usage.completion_tokens == LIMIT
    assert found.usage.prompt_tokens + LIMIT == found.usage.total_tokens > 1 + LIMIT
    assert [line.rpartition(" 200 ")[0] for line in log[-2:]] == ["GET /v1/models", "POST /v1/chat/completions"]


def test_tokens_of_images_and_of_earlier_turns_are_counted(made: dict[str, Path], ours: Any) -> None:  # noqa: F811
    url, _ = ours
    film = show(made["film.png"])
    counts = [
        ask(url, shown, "Where? " * n).usage.prompt_tokens
        for shown, n in (([], 1), (film, 1), (film * 2, 1), (film, 9))
    ]
    assert counts[1] - counts[0] == counts[2] - counts[1] > 1 and counts[3] > counts[1]


def test_a_stream_is_logged_at_its_end(made: dict[str, Path], ours: Any) -> None:  # noqa: F811
    url, log = ours
    stream = iter(ask(url, show(made["film.png"]), stream=True))
    next(stream)
    assert "GET" in log[-1], "the stream goes on"
    assert [*stream]
    until = time.monotonic() + 10
    while "POST" not in log[-1] and time.monotonic() < until:
        time.sleep(0.02)
    assert log[-1].startswith("POST /v1/chat/completions 200 ")


def test_a_body_of_tiny_messages_is_refused_before_it_is_read() -> None:
    body = b'{"model": "m", "messages": [' + b'{"role":"user","content":""},' * 2_000_000
    began = time.monotonic()
    with pytest.raises(Refusal, match="more than 100,000 commas and brackets"):
        read_body(ChatRequest, body)
    assert time.monotonic() - began < 1


def test_many_images_need_as_many_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each DICOM file of a request is an open file in memory."""
    set_to: list[Any] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: set_to.append(limits))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    allow_files(256)
    allow_files(3000)
    assert set_to == [(3256, 4096)]
    with pytest.raises(RecipeError, match="allows a process 4096 open files; use at most 3840"):
        allow_files(4000)


def test_shorter_answers_and_random_ones_can_be_asked_for(made: dict[str, Path], ours: Any) -> None:  # noqa: F811
    url, _ = ours
    film = show(made["film.png"])
    short = ask(url, film, max_completion_tokens=2).choices[0].message.content
    assert ask(url, film).choices[0].message.content.startswith(short)
    drawn = [ask(url, film, temperature=2.0, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    cold = ask(url, film, temperature=1e-60).choices[0].message.content
    assert cold == ask(url, film).choices[0].message.content


def test_earlier_turns_and_the_system_message_count(made: dict[str, Path], ours: Any) -> None:  # noqa: F811
    url, _ = ours
    client = openai.OpenAI(base_url=url, api_key="x")
    first = {"role": "user", "content": [*show(made["film.png"]), {"type": "text", "text": "Where?"}]}
    turns: Any = [first, {"role": "assistant", "content": "left"}, {"role": "user", "content": "How many?"}]
    asked: list[Any] = [turns, [turns[-1]], [{"role": "system", "content": "Say it in German."}, *turns]]
    found = {
        len(messages): client.chat.completions.create(model="ours", messages=messages).choices[0].message.content
        for messages in asked
    }
    assert len(set(found.values())) == 3


def test_dicom_and_nifti_are_read_as_chat_reads_them(
    made: dict[str, Path], ours: Any, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    url, _ = ours
    save(slices(size=(6, 20, 24)), tmp_path / "series")
    values = np.random.default_rng(0).integers(-900, 900, (24, 20, 6)).astype(np.int16)
    image: Any = nibabel.Nifti1Image(values, np.diag([0.7, 0.7, 2.5, 1]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "scan.nii.gz")
    files = list_files(tmp_path / "series")
    for sent, own in ((files, tmp_path / "series"), ([tmp_path / "scan.nii.gz"], tmp_path / "scan.nii.gz")):
        expected = talk(str(made["ours"]), [own, made["film.png"]], max_new_tokens=LIMIT)("Where?")
        assert ask(url, show(*sent, made["film.png"])).choices[0].message.content == expected
        another = talk(str(made["ours"]), [made["film.png"]], max_new_tokens=LIMIT)("Where?")
        assert another != expected, "or the volume would not matter"


def test_it_embeds_images_and_texts(made: dict[str, Path]) -> None:  # noqa: F811
    served = open_model(made["ours-dual"])
    film, dual = made["film.png"], served.embedder
    sample, files = read_files([film], dual.kind_of)
    with serving(served) as (url, _):
        client = openai.OpenAI(base_url=url, api_key="x", max_retries=0)
        asked = ["a nodule", write_url(film.read_bytes())]
        found = client.embeddings.create(model=served.name, input=asked).data  # in base64, as the client asks for
        (plain,) = client.embeddings.create(model=served.name, input="a nodule", encoding_format="float").data
        with pytest.raises(openai.BadRequestError, match="does not answer questions"):
            ask(url, [])
        with pytest.raises(openai.BadRequestError, match=r"input\.1: neither a picture nor NIfTI, but a PDF"):
            client.embeddings.create(model=served.name, input=["a nodule", PDF])
    expected = [dual.embed_texts(["a nodule"])[0], next(dual.embed_each(sample, files)).numpy()]
    np.testing.assert_allclose([each.embedding for each in found], expected, atol=1e-6)
    np.testing.assert_allclose(plain.embedding, expected[0], atol=1e-6)


def test_a_model_is_evaluated_through_its_own_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny("qwen3_vl", tmp_path / "model")
    written(tmp_path, recipe(name="asis", model={"pretrained": "model"}, stages=[], evaluate=EVALUATE), FILMS)
    rows = evaluate("recipe.yaml")
    with serving(open_model(tmp_path / "model")) as (url, _):
        found = evaluate(url, ["card.yaml:test"], overrides=[*ON_FILMS, "name=served", "model.boxes.codec=bbox_2d"])
    assert {row["task"] for row in rows} == {"vqa", "count", "boxes"}
    assert strip(found) == strip(rows) and read_answers("served") == read_answers("asis")


# --- what is refused -------------------------------------------------------------------------------------


def post(url: str, body: Any, path: str = "chat/completions", **headers: str) -> tuple[int, str]:
    """Status, and the message of the error."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/{path}", data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, ""
    except urllib.error.HTTPError as refusal:
        error = json.loads(refusal.read())["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        return refusal.code, error["message"]


def said(*content: Any, **settings: Any) -> dict[str, Any]:
    return {"model": "ours", "messages": [{"role": "user", "content": [*content]}], **settings}


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


WORDS = {"type": "text", "text": "Where?"}
PDF, SHORT_DICOM = write_url(b"%PDF-1.4"), write_url(b"\0" * 128 + b"DICM" + b"\x02\0" * 40)
REFUSED: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b"{", 400, "the request: Invalid JSON"),
    "another model": ({**said(WORDS), "model": "gpt"}, 404, "this server has one model, 'ours'"),
    "two answers": (said(WORDS, n=2), 400, "n: is not supported by this server; leave it out"),
    "tools": (said(WORDS, tools=[{"type": "function"}]), 400, "tools: is not supported"),
    "the assistant last": (
        {"model": "ours", "messages": [{"role": "assistant", "content": "left"}]}, 400, "the user's as the last"),
    "half a letter": (said({"type": "text", "text": "\ud800"}), 400, "the request: Invalid JSON"),
    "a web address": (said(picture("http://127.0.0.1/a.png")), 400, "image 1: this server fetches nothing"),
    "a file's name": (said(picture("file:///etc/passwd")), 400, "image 1: this server fetches nothing"),
    "no base64": (said(picture("data:image/png;base64,a*b")), 400, "image 1: its base64 is damaged or cut"),
    "a PDF": (said(picture(PDF)), 400, "image 1: neither a picture nor NIfTI, but a PDF"),
    "no image": (said(picture("data:image/png;base64,")), 400, "image 1: neither a picture nor NIfTI, but an empty"),
    "damaged DICOM": (said(picture(SHORT_DICOM)), 400, "image 1: its "),
    "many images": (said(*[picture(PDF)] * 17), 413, "17 images, of which this server takes 16"),
    "a large request": (b" " * (9 << 20), 413, "a request of more than 8 MiB"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_said(name: str, ours: Any) -> None:
    body, status, message = REFUSED[name]
    found = post(ours[0], body)
    assert found[0] == status and message in found[1]


def test_the_pixels_of_a_request_are_counted_before_they_are_decoded(
    made: dict[str, Path], tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    save(slices(size=(6, 20, 24)), tmp_path / "series")
    films, series = show(made["film.png"]), show(*list_files(tmp_path / "series"))  # 2,400 and 2,880
    image: Any = nibabel.Nifti1Image(np.zeros((20, 20, 20), np.int16), np.eye(4))
    nibabel.save(image, tmp_path / "scan.nii.gz")
    with serving(open_model(made["ours"], pixels=5_000)) as (url, _):
        for parts in ([*films] * 3, [*films, *series], show(tmp_path / "scan.nii.gz")):
            assert post(url, said(*parts)) == (
                413, "the images of this request have more than 5,000 pixels together; the limits are those of medvlm"
                " serve")  # fmt: skip
        assert post(url, said(*films, *films))[0] == post(url, said(*series))[0] == 200


def test_an_address_of_many_parameters_takes_no_memory() -> None:
    url = "data:image/png" + ";a" * 100_000
    tracemalloc.start()
    with pytest.raises(Refusal, match="fetches nothing"):
        decode_url(url, "image 1")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_requests_beyond_the_limits_do_not_wait(made: dict[str, Path]) -> None:  # noqa: F811
    film = show(made["film.png"])
    with serving(open_model(made["ours"], new_tokens=100_000), waiting=0) as (url, _):
        stream = ask(url, film, stream=True)
        next(iter(stream))
        assert post(url, said(WORDS)) == (429, "0 requests are waiting already; send this one again later")
        stream.close()  # nobody reads it any more, so it ends, and the next one is served
        until = time.monotonic() + 20
        while (status := post(url, said(WORDS, max_tokens=1))[0]) == 429 and time.monotonic() < until:
            time.sleep(0.1)
        assert status == 200


def test_a_client_that_reads_nothing_loses_its_place(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    """Sockets buffer much, so the application is called as uvicorn calls it."""
    monkeypatch.setattr(app, "READ_S", 0.1)
    turnstile = Turnstile(0, 1.0)
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "headers": headers}
    parts = [{"type": "http.request", "body": json.dumps(said(WORDS, stream=True)).encode()}]

    async def receive() -> Any:
        return parts.pop() if parts else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    served = app.make_app(open_model(made["ours"]), turnstile, "", 1 << 20, print)
    asyncio.run(asyncio.wait_for(served(scope, receive, send), 10))
    with turnstile.admit():
        turnstile.close()


def test_an_answer_that_takes_too_long_is_ended(made: dict[str, Path]) -> None:  # noqa: F811
    with serving(open_model(made["ours"], new_tokens=100_000), seconds=1.0) as (url, _):
        assert post(url, said(WORDS)) == (503, "the answer took more than the 1 s that this server allows")
        with pytest.raises(openai.APIError, match="took more than the 1 s"):
            for _ in ask(url, [], stream=True):
                pass


def test_a_token_is_needed_where_there_is_one(made: dict[str, Path]) -> None:  # noqa: F811
    served = open_model(made["ours"])
    with serving(served, token=TOKEN) as (url, log):
        assert ask(url, []).choices
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Bearer {TOKEN}é"}):
            assert post(url, said(WORDS), **headers)[0] == 401
        assert not any(TOKEN in line for line in log)


def test_pages_in_a_browser_cannot_ask_it(ours: Any) -> None:
    """They can send a form without asking, or let a name of theirs point to this machine."""
    assert post(ours[0], said(WORDS), **{"Content-Type": "text/plain"})[0] == 415
    for host in ("evil.example:8000", "[localhost"):
        assert post(ours[0], said(WORDS), Host=host)[0] == 403


def test_nothing_is_written_and_no_text_is_logged(
    made: dict[str, Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    save(slices(size=(6, 20, 24)), tmp_path / "series")
    series = show(*list_files(tmp_path / "series"))
    served = open_model(made["ours"])
    with serving(served) as (url, log), watch_files() as opened:
        ask(url, series, "Has Mr Miller a nodule?")
        monkeypatch.setattr(served.answerer, "tell", lambda ask, *_: [].remove(ask.question.text))
        status, message = post(url, said({"type": "text", "text": "Has Mr Miller a nodule?"}))
    assert status == 500 and re.fullmatch(rf"an error of this server: ValueError in {__name__}:\d+", message)
    assert len(log) == 4 and "Miller" not in message + "".join(log) + "".join(capsys.readouterr())
    assert opened == [], "files opened to write"


def test_an_error_within_a_stream_is_said_and_logged(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    def fail(ask: Any, hear: Callable[[str], None], *_: Any) -> None:
        hear("left")
        [].remove(ask.question.text)

    served = open_model(made["ours"])
    monkeypatch.setattr(served.answerer, "tell", fail)
    with serving(served) as (url, log), pytest.raises(openai.APIError, match="an error of this server: ValueError in"):
        for _ in ask(url, [], stream=True):
            pass
    assert sum(line.startswith("an error of this server: ValueError in ") for line in log) == 1


@contextmanager
def watch_files() -> Iterator[list[str]]:
    """The names of files that are opened to write meanwhile. A number is a file in memory, and /dev/null keeps
    nothing."""
    found: list[str] = []
    is_on = True

    def note(event: str, arguments: Any) -> None:
        is_kept = event == "open" and not isinstance(arguments[0], int) and arguments[0] != os.devnull
        if is_on and is_kept and arguments[2] & 3:
            found.append(str(arguments[0]))

    sys.addaudithook(note)
    yield found
    is_on = False


# --- tokens and models on the command line ------------------------------------------------------------------


def give(text: str, mode: int = 0o600) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "token").write_text(text)
        (folder / "token").chmod(mode)
        return folder / "token"

    return make


@pytest.mark.parametrize(
    ("host", "make", "variable", "why"),
    [
        ("0.0.0.0", None, "", "other machines can reach it, so requests must bring a token"),
        ("::", None, "", "other machines can reach it"),
        ("127.0.0.1", give(TOKEN, 0o644), "", "everybody on this machine may read this token file"),
        ("127.0.0.1", give(TOKEN, 0o640), "", "the group of this file may read this token file"),
        ("127.0.0.1", give("short"), "", "expected a token of at least 16 ASCII characters"),
        ("127.0.0.1", give(""), TOKEN, "expected a token of at least 16 ASCII characters"),
        ("127.0.0.1", None, "short", "MEDVLM_TOKEN: expected a token of at least 16"),
        ("127.0.0.1", lambda folder: folder / "none", "", "this token file cannot be read"),
    ],
)
def test_an_unsafe_token_is_refused(
    host: str, make: Any, variable: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDVLM_TOKEN", variable)
    with pytest.raises(RecipeError, match=why) as raised:
        Place(host, 0, make and make(tmp_path)).read_token()
    assert TOKEN not in str(raised.value)


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDVLM_TOKEN", raising=False)
    assert Place("127.0.0.1", 0, None).read_token() == Place("localhost", 0, None).read_token() == ""
    assert Place("0.0.0.0", 0, give(f"{TOKEN}\n")(tmp_path)).read_token() == TOKEN
    monkeypatch.setenv("MEDVLM_TOKEN", TOKEN)
    assert Place("127.0.0.1", 0, None).read_token() == TOKEN


def test_a_port_that_is_taken_is_said() -> None:
    with Place("127.0.0.1", 0, None).listen() as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RecipeError, match=rf"cannot listen on 127.0.0.1 port {port} .*choose another --port"):
            Place("127.0.0.1", port, None).listen()
