"""A server's own commands reach it over loopback, wherever it listens."""

import socket

import pytest

from openledger.core.errors import InvalidInputError, UnavailableError
from openledger.web.listening import command_host, drop_slow_readers, listen, names


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "localhost"),
        ("0.0.0.0", "127.0.0.1"),
        ("", "127.0.0.1"),
        ("192.0.2.7", "127.0.0.1"),
    ],
)
def test_commands_use_loopback(host: str, found: str) -> None:
    assert command_host(host) == found


def test_a_server_answers_to_its_address_and_its_names() -> None:
    assert {"localhost", "192.0.2.7", "a.example"} <= set(names("192.0.2.7", ("a.example",)))
    assert "0.0.0.0" not in names("0.0.0.0", ())


def test_an_address_beside_the_usual_one_is_listened_on_with_it() -> None:
    found = listen("127.0.0.2", 0)
    addresses = [one.getsockname() for one in found.sockets]
    port = addresses[0][1]
    found.close()

    assert addresses == [("127.0.0.2", port), ("127.0.0.1", port)]
    assert found.url == f"http://127.0.0.1:{port}"


def test_a_taken_port_of_loopback_is_told_too() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

        with pytest.raises(UnavailableError, match=f"port {port} of 127.0.0.1 is taken"):
            listen("127.0.0.2", port)


@pytest.mark.parametrize("host", ["192.0.2.7", "::"])
def test_an_address_of_another_machine_is_wrong_input(host: str) -> None:
    with pytest.raises(InvalidInputError, match="to an IPv4 address of this machine"):
        listen(host, 0)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has none")
def test_a_connection_is_closed_by_the_system_when_its_other_end_takes_nothing() -> None:
    listening = listen("127.0.0.1", 0)
    drop_slow_readers(listening.sockets, 7)
    (door,) = listening.sockets
    door.listen()
    with socket.create_connection(door.getsockname()):
        accepted, _ = door.accept()
        patience_ms = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        accepted.close()
    listening.close()

    assert patience_ms == 7_000
