"""The decoder process: `python -m medvlm.archive.packing.decoder MEMORY_BYTES SECONDS`.

Its standard input is a socket.

It receives the permitted plugins, a card, then samples. It answers each sample with what is to be stored or with what
is wrong. Answers are JSON and bytes, never pickles: a file that takes over this process cannot reach the packer.
Imports nothing heavy, because it is restarted whenever a sample breaks it.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from medvlm.archive.packing.stored import Stored, make_stored
from medvlm.core.card import Card
from medvlm.core.config import permit
from medvlm.core.contracts import Deferred, RawSample
from medvlm.core.errors import DataError
from medvlm.io.shard_index import Facts

_LENGTH = 8
"""Bytes of the length of a message."""


def main(memory_bytes: int, seconds: int) -> None:
    connection = socket.socket(fileno=os.dup(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the packer handles Ctrl-C and ends this process
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would contain patient data
    plugins = json.loads(receive(connection))
    permit(plugins)
    card = pickle.loads(receive(connection))
    os.dup2(os.open(os.devnull, os.O_RDWR), 2)  # on errors, libraries print names and values of the file
    send(connection, json.dumps({"ready": True}).encode())
    while True:
        try:
            message = receive(connection)
        except (EOFError, ConnectionError):
            return
        signal.alarm(2 * seconds)  # the packer ends it earlier; this is for a packer that was killed
        answer, members = _prepare(message, card, memory_bytes)
        signal.alarm(0)
        send(connection, json.dumps(answer).encode(), *members)
        if "spent" in answer:
            return


def send(connection: socket.socket, message: bytes, *more: bytes) -> None:
    """Sends a message, prefixed with its length, then bytes whose lengths the message gives."""
    for part in (len(message).to_bytes(_LENGTH, "big") + message, *more):
        connection.sendall(part)


def receive(connection: socket.socket, max_bytes: float = float("inf")) -> bytes:
    """A message. Raises EOFError or OSError if the other side is gone, ValueError if the message is too long."""
    return _exactly(connection, int.from_bytes(_exactly(connection, _LENGTH, max_bytes), "big"), max_bytes)


def read_answer(connection: socket.socket, max_bytes: int) -> dict[str, Any] | Stored:
    """A decoder's answer, read in the packer. No part of it may be longer than max_bytes. Raises EOFError or OSError if
    the decoder died or stalled; ValueError, KeyError or TypeError if its answer is malformed."""
    answer = json.loads(receive(connection, max_bytes))
    if "facts" not in answer:
        return dict(answer)
    facts = answer["facts"]
    return Stored(
        Facts(**{**facts, "kinds": tuple(facts["kinds"])}),
        answer["patient"],
        tuple(answer["images"]),
        {name: _exactly(connection, size, max_bytes) for name, size in answer["members"].items()},
        answer["left_out"],
    )


def _exactly(connection: socket.socket, size: int, max_bytes: float) -> bytes:
    if not 0 <= size <= max_bytes:
        raise ValueError("a message of an impossible length")
    data = b""
    while len(data) < size:  # runs once, unless a signal interrupts
        more = connection.recv(size - len(data), socket.MSG_WAITALL)
        if not more:
            raise EOFError
        data = data + more if data else more
    return data


def _prepare(message: bytes, card: Card, memory_bytes: int) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    """The answer and the bytes of its members. `bad`: why the sample cannot be used; `spent`: the process must be
    replaced; `fault`: an error that the sample did not cause."""
    try:
        item: RawSample | Deferred = pickle.loads(message)
    except Exception as reason:
        return {"fault": f"a sample cannot be handed to another process ({type(reason).__name__}: {reason})"}, ()
    try:
        raw = item.make() if isinstance(item, Deferred) else item
        done = make_stored(raw, card)
    except DataError as reason:
        return {"bad": str(reason)}, ()
    except MemoryError:
        return {
            "bad": f"needs more than {memory_bytes >> 20} MiB of memory to decode; reduce or split it",
            "spent": True,
        }, ()
    except Exception as reason:  # libraries raise anything on hostile bytes, and their messages may quote the file
        at = traceback.extract_tb(reason.__traceback__)[-1]
        return {"bad": f"cannot be decoded ({type(reason).__name__} in {Path(at.filename).name}:{at.lineno})"}, ()
    sizes = {name: len(data) for name, data in done.members.items()}
    answer = {
        "facts": vars(done.facts),
        "patient": done.patient,
        "images": done.images,
        "members": sizes,
        "left_out": done.left_out,
    }
    return answer, tuple(done.members.values())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
