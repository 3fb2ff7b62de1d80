"""What transactions offer, and how they are signed."""

import msgspec
import pytest
from eth_account import Account as Keys
from hypothesis import given
from hypothesis import strategies as st

from openledger.chain.client import Client, Message
from openledger.chain.config import OP_STACK, Config
from openledger.chain.outbox.fees import (
    Draft,
    Fees,
    bumped,
    check_funds,
    present_fees,
    redraft,
    sign,
)
from openledger.core.errors import UnavailableError
from openledger.core.signing import address_of
from openledger.core.types import ZERO_ACCOUNT, Account, Wei
from tests.chain.fake_chain import GWEI, FakeChain

KEY = b"\x03" * 32
ME = address_of(KEY)
prices = st.integers(1, 10**12)


class Oracle(FakeChain):
    """An OP Stack chain, as far as fees go."""

    def eth_getBalance(self, _account: str, _tag: str) -> str:  # noqa: N802
        return hex(10**15)

    def eth_call(self, form: dict[str, str], tag: str) -> str:
        assert form["to"].startswith("0x42")
        return "0x" + f"{self.layer_1:064x}"

    layer_1 = 10**12


def draft(contract: Account, data: bytes = b"\x01") -> Draft:
    return Draft(Message(ME, contract, data, Wei(5)), 7, 3, 21_000, Fees(Wei(9), Wei(2)))


@given(prices, prices, prices, prices)
def test_a_replacement_offers_an_eighth_more(a: int, b: int, c: int, d: int) -> None:
    old, present = Fees(Wei(max(a, b)), Wei(min(a, b))), Fees(Wei(max(c, d)), Wei(min(c, d)))
    new = bumped(old, present, 10**13)

    assert new is not None
    assert new.max_fee * 8 >= old.max_fee * 9
    assert new.max_fee >= new.tip >= old.tip


def test_no_replacement_above_the_cap() -> None:
    assert bumped(Fees(Wei(100), Wei(1)), Fees(Wei(1), Wei(1)), 110) is None


@pytest.mark.parametrize("contract", [ZERO_ACCOUNT, Account("0x" + "44" * 20)])
def test_a_signed_transaction_can_be_read_back(contract: Account) -> None:
    wanted = draft(contract)
    signed = sign(wanted, KEY)

    assert redraft(signed.raw, ME) == wanted
    assert str(Keys.recover_transaction(signed.raw)).lower() == ME


def test_the_offer_is_twice_the_base_fee_up_to_the_cap() -> None:
    chain = FakeChain()
    profile = msgspec.structs.replace(OP_STACK, max_fee_wei=4 * GWEI)
    client = Client(chain, Config(profile=profile))

    assert present_fees(client).max_fee == 3 * GWEI
    chain.base_fee = 2 * GWEI
    assert present_fees(client).max_fee == 4 * GWEI


def test_on_an_op_stack_chain_layer_1_must_be_paid_as_well() -> None:
    chain = Oracle()
    client = Client(chain, Config(profile=OP_STACK))
    wanted = draft(ZERO_ACCOUNT)
    check_funds(client, wanted, sign(wanted, KEY).raw)
    chain.layer_1 = 10**15

    with pytest.raises(UnavailableError, match="fund it"):
        check_funds(client, wanted, sign(wanted, KEY).raw)
