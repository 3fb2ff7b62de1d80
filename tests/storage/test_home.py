import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from openledger.core.errors import HomeBusyError, UnavailableError
from openledger.storage.home import (
    Home,
    Server,
    new_token,
    read_server,
    remove_server,
    write_server,
)

OWNER = """
import sys, time
from pathlib import Path
from openledger.storage.home import Home, Server, write_server
home = Home(Path(sys.argv[1]))
with home.own():
    write_server(home, Server("http://127.0.0.1:1", "token", 1))
    print("owned", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_a_home_is_owned_by_one_process_until_it_dies(home: Home) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(home.root)], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"owned\n"

    with pytest.raises(HomeBusyError, match="another --home"), home.own():
        raise AssertionError
    assert home.is_owned()
    assert read_server(home) == Server("http://127.0.0.1:1", "token", 1)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    assert not home.is_owned()
    assert read_server(home) is None
    with home.own():
        assert not home.server_file.exists()


def test_a_home_is_not_owned_twice_in_one_process(home: Home) -> None:
    with home.own():
        with pytest.raises(HomeBusyError), home.own():
            raise AssertionError
        assert home.is_owned()
    assert not home.is_owned()


def test_a_home_that_does_not_exist_is_not_owned(home: Home) -> None:
    assert not home.is_owned()
    assert not home.root.exists()


def test_a_command_that_asks_at_the_same_time_is_no_owner(home: Home) -> None:
    with home.own():
        pass
    with home.lock_file.open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)

        assert not home.is_owned()


def test_only_this_user_may_read_the_token(home: Home) -> None:
    with home.own():
        write_server(home, Server("http://127.0.0.1:1", new_token(), os.getpid()))

        assert home.server_file.stat().st_mode & 0o777 == 0o600
        assert home.root.stat().st_mode & 0o777 == 0o700
        remove_server(home)
        remove_server(home)
        assert read_server(home) is None


def test_a_damaged_server_file_is_said_to_be_damaged(home: Home) -> None:
    with home.own():
        home.server_file.write_bytes(b"{}")

        with pytest.raises(UnavailableError, match="damaged"):
            read_server(home)


def test_tokens_differ() -> None:
    assert len({new_token() for _ in range(10)}) == 10


def test_everything_lies_in_the_home(home: Home) -> None:
    paths = [
        home.database,
        home.blobs,
        home.chain,
        home.keys,
        home.models,
        home.adapter("digest"),
        home.run("id"),
    ]

    assert [str(path.relative_to(home.root)) for path in paths] == [
        "openledger.db",
        "blobs",
        "chain",
        "keys",
        "models",
        "adapters/digest",
        "runs/id",
    ]
