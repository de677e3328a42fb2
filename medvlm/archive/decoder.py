"""The process that decodes: `python -m medvlm.archive.decoder MEMORY_BYTES SECONDS`, its standard input a socket.

It gets a card, then samples, one at a time, and answers each with what is to be stored or with what is wrong. Answers
are JSON and bytes, never pickles: a file that takes over this process gets no further. Imports nothing heavy, since it
is started anew whenever a sample breaks it.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import sys
import traceback
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from medvlm.archive.stored import Stored, stored
from medvlm.core.card import Card
from medvlm.core.contracts import Deferred, RawSample
from medvlm.core.errors import DataError
from medvlm.io.shard_index import Facts


def main(memory_bytes: int, seconds: int) -> None:
    connection = Connection(os.dup(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the packer's, who ends this process
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold what the files hold
    card = connection.recv()
    os.dup2(os.open(os.devnull, os.O_RDWR), 2)  # libraries print names and values of what they cannot read
    _answer(connection, {"ready": True})
    while True:
        try:
            message = connection.recv_bytes()
        except EOFError:
            return
        signal.alarm(2 * seconds)  # the packer stops it before; this is for when the packer itself was killed
        answer, members = _prepared(message, card, memory_bytes)
        signal.alarm(0)
        _answer(connection, answer, *members)
        if "spent" in answer:
            return


def read_answer(connection: Connection, max_bytes: int) -> dict[str, Any] | Stored:
    """In the packer: what a decoder says, each part of it no longer than it may be. Raises EOFError or OSError for one that
    has died, ValueError, KeyError or TypeError for one that has lost its mind."""
    answer = json.loads(connection.recv_bytes(max_bytes))
    if "facts" not in answer:
        return dict(answer)
    facts = answer["facts"]
    return Stored(
        Facts(**{**facts, "kinds": tuple(facts["kinds"]), "tasks": tuple(facts["tasks"])}), answer["patient"], tuple(answer["images"]),
        {name: connection.recv_bytes(max_bytes) for name in answer["members"]},
    )  # fmt: skip


def _prepared(message: bytes, card: Card, memory_bytes: int) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    """`bad`: why the sample cannot be used; `spent`: and this process should not go on; `fault`: it is not the sample's fault."""
    try:
        item: RawSample | Deferred = pickle.loads(message)
    except Exception as reason:
        return {"fault": f"a sample cannot be handed to another process ({type(reason).__name__}: {reason})"}, ()
    try:
        raw = item.make() if isinstance(item, Deferred) else item
        done = stored(raw, card)
    except DataError as reason:
        return {"bad": str(reason)}, ()
    except MemoryError:
        return {"bad": f"needs more than {memory_bytes >> 20} MiB of memory to decode; reduce or split it", "spent": True}, ()
    except Exception as reason:  # libraries raise anything on hostile bytes; their message may hold what the file holds
        at = traceback.extract_tb(reason.__traceback__)[-1]
        return {"bad": f"cannot be decoded ({type(reason).__name__} in {Path(at.filename).name}:{at.lineno})"}, ()
    answer = {"facts": asdict(done.facts), "patient": done.patient, "images": done.images, "members": list(done.members)}
    return answer, tuple(done.members.values())


def _answer(connection: Connection, answer: dict[str, Any], *members: bytes) -> None:
    connection.send_bytes(json.dumps(answer).encode())
    for data in members:
        connection.send_bytes(data)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
