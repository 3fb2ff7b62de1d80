"""A peer that knows one token, with probability one, and breaks when it is asked for 13."""

import sys

from bench.serving.children.loop import Setup, conversation, read_setup, serve

TOKEN = 3
LACKING = 13  # so many tokens of each answer, and one is missing


class EchoPeer:
    def __init__(self, setup: Setup) -> None:
        self.about = f"echo of {len(setup['adapters'])} adapters"
        sys.stdout.write("a peer prints what it likes\n")

    def answer(self, rows: int, adapters: int, tokens: int) -> int:
        return rows * tokens - (tokens == LACKING)

    def first(self, rows: int, adapters: int) -> tuple[list[int], list[float]]:
        return [TOKEN] * rows, [0.0] * rows


if __name__ == "__main__":
    replies = conversation()
    serve(EchoPeer(read_setup()), replies)
