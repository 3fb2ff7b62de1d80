import json
from pathlib import Path

import msgspec
import pytest

from openledger.core.errors import (
    HomeBusyError,
    InvalidInputError,
    UnauthenticatedError,
    WrongChainError,
)
from openledger.core.types import Digest
from openledger.storage.records.data.accounts import AccountKind
from openledger.wiring.platform import open_platform
from tests import market as fair


def test_a_home_opens_again_with_the_same_keys_chain_and_contracts(
    market_home: Path, tmp_path: Path
) -> None:
    with fair.open_copy(market_home, tmp_path / "home") as platform:
        first = (platform.gateway.account, platform.acts.contracts.deployment, platform.treasury)
        height = platform.chain.client.height()
    with open_platform(fair.settings(tmp_path / "home")) as platform:
        second = (platform.gateway.account, platform.acts.contracts.deployment, platform.treasury)
        assert platform.chain.client.height() == height
        again = platform.account("user/dev", AccountKind.USER, "another name")

    assert first == second
    assert again.display_name == "dev"


@pytest.mark.parametrize(("setting", "largest"), [(1, 64), (64, 64), (65, 65)])
def test_a_file_that_may_be_sent_may_be_read(
    market_home: Path, tmp_path: Path, setting: int, largest: int
) -> None:
    """And a lower limit of the server is none for the sources of this machine."""
    with fair.open_copy(market_home, tmp_path / "home") as platform:
        serve = msgspec.structs.replace(platform.settings.serve, max_body_mb=setting)
        object.__setattr__(
            platform, "settings", msgspec.structs.replace(platform.settings, serve=serve)
        )

        assert platform.intake.config.extract.largest_file_bytes == largest << 20


def test_a_home_that_is_open_is_not_opened_twice(market_home: Path, tmp_path: Path) -> None:
    with (
        fair.open_copy(market_home, tmp_path / "home"),
        pytest.raises(HomeBusyError, match="another process owns"),
        open_platform(fair.settings(tmp_path / "home")),
    ):
        pass


def test_another_chain_id_is_refused(market_home: Path, tmp_path: Path) -> None:
    with fair.open_copy(market_home, tmp_path / "home"):
        pass
    settings = fair.settings(tmp_path / "home")
    chain = msgspec.structs.replace(settings.chain, chain_id=5)

    with (
        pytest.raises(WrongChainError),
        open_platform(msgspec.structs.replace(settings, chain=chain)),
    ):
        pass


def test_a_setting_that_names_no_chain_is_refused(tmp_path: Path) -> None:
    settings = fair.settings(tmp_path / "home")
    chain = msgspec.structs.replace(settings.chain, url="mainnet")

    with (
        pytest.raises(InvalidInputError, match="'mainnet' is no chain"),
        open_platform(msgspec.structs.replace(settings, chain=chain)),
    ):
        pass


def test_keys_are_locked_with_the_password_of_the_users_file(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    settings = fair.settings(tmp_path / "home")
    home = msgspec.structs.replace(settings.home, password_file=str(password))
    locked = msgspec.structs.replace(settings, home=home)
    with open_platform(locked) as platform:
        account = platform.gateway.account
    with open_platform(locked) as platform:
        assert platform.gateway.account == account
    password.write_text("wrong")

    assert not (tmp_path / "home" / "keys" / "password").exists()
    with pytest.raises(UnauthenticatedError), open_platform(locked):
        pass


def test_the_door_for_wallets_answers_json_rpc(market_home: Path, tmp_path: Path) -> None:
    with fair.open_copy(market_home, tmp_path / "home") as platform:
        assert platform.chain.rpc is not None
        body = b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[]}'
        assert json.loads(platform.chain.rpc(body))["result"] == hex(31_337)


def test_what_was_queued_before_a_crash_goes_on_at_once(market_home: Path, tmp_path: Path) -> None:
    """The lease of the operator's key belongs to the home, not to the process that died."""
    with fair.open_copy(market_home, tmp_path / "home") as platform:
        payer = fair.payer(platform).address
        write = platform.acts.contracts.write("OpenToken", "transfer", payer, 5)
        op = Digest("1" * 64)
        with platform.database.transaction() as transaction:
            platform.acts.queue(transaction, op, write)
        other = fair.over(platform, fair.direct(platform), timeout_s=20)
        assert other.acts.confirm([op])[0].reason is None
