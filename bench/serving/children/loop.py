"""A peer's half of the conversation: a line of JSON comes in, a line goes out.

A peer may print what it likes: the lines go out by a copy of standard output, which then itself
becomes standard error.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Protocol, TypedDict


class Setup(TypedDict):
    """What a peer serves."""

    base: str  # a file or folder
    adapters: list[str]  # files or folders
    rank: int
    prompts: list[list[int]]
    room_tokens: int  # of one prompt and its answer
    precision: str


class Peer(Protocol):
    """An engine with its base and adapters in memory."""

    @property
    def about(self) -> str:
        """Its version and what it was built for."""
        ...

    def answer(self, rows: int, adapters: int, tokens: int) -> int:
        """Answer the first prompts under so many adapters in turns; how many tokens it made."""
        ...

    def first(self, rows: int, adapters: int) -> tuple[list[int], list[float]]:
        """(rows,) likeliest tokens after the prompts, and the logarithms of their probabilities."""
        ...


def read_setup() -> Setup:
    """From the file that the first argument names."""
    setup: Setup = json.loads(Path(sys.argv[1]).read_text())
    return setup


def conversation() -> int:
    """Where replies go; call it before anything else may print."""
    replies = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return replies


def serve(peer: Peer, replies: int) -> None:
    """Do as told, until nobody says more; then end at once, whatever threads the peer has."""
    _reply(replies, {"about": peer.about})
    for line in sys.stdin:
        told = json.loads(line)
        if told["tokens"]:
            started = time.process_time()
            made = peer.answer(told["rows"], told["adapters"], told["tokens"])
            _reply(replies, {"cpu_s": time.process_time() - started, "tokens": made})
        else:
            ids, logprobs = peer.first(told["rows"], told["adapters"])
            _reply(replies, {"ids": ids, "logprobs": logprobs})
    os._exit(0)


def _reply(replies: int, said: object) -> None:
    os.write(replies, json.dumps(said).encode() + b"\n")
