"""Public chains get time to object, and an epoch waits while its proposal may be vetoed."""

from pathlib import Path

import msgspec
import pytest

from openledger.chain.config import profile_of
from openledger.chain.contracts import ContractSettings
from openledger.chain.deployment import GUARDIAN
from openledger.chain.outbox.faucet import give_gas
from openledger.chain.outbox.rows import op_id
from openledger.core.errors import InvalidInputError
from openledger.core.types import Digest, Wei
from openledger.datanet.sources import tiny
from openledger.lm.tokenizer import Tokenizer
from openledger.settings import ChainSettings, Settings
from openledger.storage.records.data.accounts import AccountKind
from openledger.storage.records.money.epochs import EpochState
from openledger.wiring.chain import (
    PUBLIC_DELAY_S,
    PUBLIC_IDENTITY_DELAY_S,
    PUBLIC_SEED_DELAY_BLOCKS,
    contract_settings,
)
from openledger.wiring.platform import Platform, open_platform
from tests import market as fair

DAY_S = 86_400


def with_delay(home: Path, delay_s: int | None) -> Settings:
    settings = fair.settings(home)
    chain = msgspec.structs.replace(settings.chain, delay_s=delay_s)
    return msgspec.structs.replace(settings, chain=chain)


def deployed_on(
    url: str, delay_s: int | None = None, blocks: int | None = None
) -> ContractSettings:
    chosen = ChainSettings(url=url, delay_s=delay_s, seed_delay_blocks=blocks)
    return contract_settings(chosen, profile_of(url))


@pytest.mark.parametrize(
    ("url", "chosen", "delay", "identity_delay"),
    [
        ("embedded", None, 0, 0),
        ("embedded", 7, 7, 7),
        ("anvil", None, 0, 0),
        ("https://node.example", None, PUBLIC_DELAY_S, PUBLIC_IDENTITY_DELAY_S),
        ("op+https://node.example", 4 * DAY_S, 4 * DAY_S, PUBLIC_IDENTITY_DELAY_S),
        ("https://node.example", 8 * DAY_S, 8 * DAY_S, 8 * DAY_S),
    ],
)
def test_a_public_chain_has_days_and_a_development_chain_none(
    url: str, chosen: int | None, delay: int, identity_delay: int
) -> None:
    deployed = deployed_on(url, chosen)

    assert (deployed.notice_s, deployed.exit_delay_s, deployed.payout_delay_s) == (delay,) * 3
    assert deployed.identity_delay_s == identity_delay


@pytest.mark.parametrize(
    ("url", "chosen", "blocks"),
    [
        ("embedded", None, 1),
        ("anvil", 3, 3),
        ("https://node.example", None, PUBLIC_SEED_DELAY_BLOCKS),
        ("op+https://node.example", 21, 21),
    ],
)
def test_a_seed_is_far_off_on_a_public_chain_and_near_in_development(
    url: str, chosen: int | None, blocks: int
) -> None:
    assert deployed_on(url, blocks=chosen).seed_delay_blocks == blocks


@pytest.mark.parametrize("chosen", [0, PUBLIC_DELAY_S - 1])
def test_too_little_time_on_a_public_chain_is_refused(chosen: int) -> None:
    with pytest.raises(InvalidInputError, match=rf"delay_s .* at least {PUBLIC_DELAY_S}"):
        deployed_on("https://node.example", chosen)


@pytest.mark.parametrize("chosen", [0, 1, PUBLIC_SEED_DELAY_BLOCKS - 1])
def test_too_near_a_seed_on_a_public_chain_is_refused(chosen: int) -> None:
    with pytest.raises(InvalidInputError, match=r"seed_delay_blocks .* at least 20"):
        deployed_on("op+https://node.example", blocks=chosen)


def open_market(platform: Platform) -> None:
    owner = fair.operator(platform)
    platform.create_datanet.run(owner, "Tiny tunes", tiny.RULES)
    assert all(one.refusal is None for one in fair.bring_tunes(platform))
    fair.publish(platform, fair.trained(platform, "tiny-tunes"))
    payer = platform.account(fair.PAYER, AccountKind.USER, "dev")
    platform.fund.faucet(payer.address, Wei(2 * fair.DEPOSITED), "first")
    platform.fund.deposit(payer, fair.DEPOSITED, "first")


def let_guardian_act(platform: Platform) -> None:
    contracts = platform.acts.contracts
    with platform.database.transaction() as transaction:
        guardian = contracts.deployment.guardian
        gas = give_gas(transaction, platform.acts.outbox, contracts, guardian, Wei(10**18), "veto")
    platform.acts.confirm([gas])


def veto(platform: Platform, turn: int) -> None:
    contracts, gateway = platform.acts.contracts, platform.gateway.account
    write = contracts.write("Payouts", "veto", gateway, Digest("01" * 32))
    write = msgspec.structs.replace(write, sender=GUARDIAN)
    platform.acts.perform({op_id("veto", turn): write})


def let_time_pass(platform: Platform) -> None:
    # Blocks run ahead of the clock by a second each: go well past the end.
    chain = fair.direct(platform)
    chain.make_request("evm_increaseTime", [7_200])
    chain.make_request("evm_mine", [])


@pytest.mark.slow
def test_an_epoch_is_not_active_before_its_proposal_can_be_vetoed_no_more(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    with open_platform(with_delay(tmp_path / "home", 3_600)) as platform:
        open_market(platform)
        fair.paid_calls(platform, tokenizer, 1)
        epoch = platform.settle.run()
        earners = fair.contributors(platform)
        assert epoch.state is EpochState.PROPOSED
        assert platform.settle.run() == epoch
        assert platform.claim.run(earners) == []

        let_time_pass(platform)
        assert platform.settle.run().state is EpochState.ACTIVE
        assert platform.claim.run(earners)


@pytest.mark.slow
def test_what_the_guardian_vetoes_is_proposed_again_until_he_lets_it_pass(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    with open_platform(with_delay(tmp_path / "home", 3_600)) as platform:
        open_market(platform)
        fair.paid_calls(platform, tokenizer, 1)
        let_guardian_act(platform)
        for turn in range(2):
            assert platform.settle.run().state is EpochState.PROPOSED
            veto(platform, turn)
        assert platform.settle.run().state is EpochState.PROPOSED
        let_time_pass(platform)

        assert platform.settle.run().state is EpochState.ACTIVE
        assert platform.claim.run(fair.contributors(platform))


@pytest.mark.slow
def test_an_epoch_that_somebody_else_activated_is_active(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    with open_platform(with_delay(tmp_path / "home", 3_600)) as platform:
        open_market(platform)
        fair.paid_calls(platform, tokenizer, 1)
        assert platform.settle.run().state is EpochState.PROPOSED
        let_time_pass(platform)
        activate = platform.acts.contracts.write("Payouts", "activate", platform.gateway.account)
        platform.acts.perform({op_id("stranger"): activate})

        settled = platform.settle.run()
        assert (settled.state, settled.payout_number) == (EpochState.ACTIVE, 1)
        assert platform.claim.run(fair.contributors(platform))


@pytest.mark.slow
def test_a_veto_is_seen_though_the_epoch_promises_what_the_one_before_did(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """Free calls change no payout: their epoch has the payouts root of the one before."""
    with open_platform(with_delay(tmp_path / "home", 3_600)) as platform:
        open_market(platform)
        fair.paid_calls(platform, tokenizer, 1)
        let_guardian_act(platform)
        assert platform.settle.run().state is EpochState.PROPOSED
        let_time_pass(platform)
        paid = platform.settle.run()
        fair.free_call(platform, tokenizer)
        assert platform.settle.run().state is EpochState.PROPOSED
        veto(platform, 0)
        let_time_pass(platform)

        assert platform.settle.run().state is EpochState.PROPOSED
        let_time_pass(platform)
        free = platform.settle.run()
        assert (free.number, free.state) == (paid.number + 1, EpochState.ACTIVE)
        assert free.payouts_root == paid.payouts_root
        assert free.payout_number == 2
