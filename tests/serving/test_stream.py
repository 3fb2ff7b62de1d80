from threading import Thread

import pytest

from openledger.core.errors import EngineFaultError
from openledger.serving.request import Finish, Token, Usage
from openledger.serving.stream import TokenStream

USAGE = Usage(1, 2, 3, 0.0, 0.0, 0.0, 0.0, Finish.STOP)


def stream(capacity: int = 2, patience_s: float = 5.0) -> TokenStream:
    return TokenStream("one", capacity, patience_s, lambda _: None)


def test_tokens_come_in_order_and_then_the_end() -> None:
    one = stream()
    one.put(Token(1, -0.5))
    one.put(Token(2, -0.5))
    one.end(USAGE)

    assert [token.id for token in one] == [1, 2]
    assert one.usage() == USAGE
    assert list(one) == []


def test_a_reader_waits_for_the_writer() -> None:
    one = stream()
    got: list[int] = []
    reader = Thread(target=lambda: got.extend(token.id for token in one))
    reader.start()
    one.put(Token(1, -0.5))
    one.end(USAGE)
    reader.join(5)

    assert got == [1]


def test_room_ends_at_the_capacity() -> None:
    one = stream(capacity=1)
    assert one.has_room()
    one.put(Token(1, -0.5))
    assert not one.has_room()
    next(one)
    assert one.has_room()


def test_a_silent_engine_is_a_fault() -> None:
    with pytest.raises(EngineFaultError, match="no sign of request one"):
        next(stream(patience_s=0.01))
    with pytest.raises(EngineFaultError):
        stream(patience_s=0.01).usage()


def test_an_error_comes_after_the_tokens_before_it() -> None:
    one = stream()
    one.put(Token(1, -0.5))
    one.end(USAGE, EngineFaultError("broken"))

    assert next(one).id == 1
    with pytest.raises(EngineFaultError, match="broken"):
        next(one)


def test_cancelling_drops_what_was_not_read_and_tells_the_engine() -> None:
    told: list[str] = []
    one = TokenStream("one", 2, 5.0, told.append)
    one.put(Token(1, -0.5))
    one.cancel()
    one.put(Token(2, -0.5))  # the step that was running
    one.end(USAGE)

    assert told == ["one"]
    assert list(one) == []
