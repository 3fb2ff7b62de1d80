"""Every bad file is refused with a reason; the chain may go down at any request."""

import errno
import re

import msgspec
import pytest

from openledger.chain.outbox import rows
from openledger.chain.outbox.rows import op_id
from openledger.core.errors import (
    ChainUnavailableError,
    DuplicateError,
    InvalidInputError,
    NotAllowedError,
    StorageFullError,
    full_disk,
)
from openledger.core.types import Digest
from openledger.datanet.contribution import Config
from openledger.datanet.extract import Config as ExtractConfig
from openledger.datanet.extract import File
from openledger.flows.data.contribute.flow import contribute
from openledger.flows.data.contribute.submission import Outcome, Submission
from openledger.storage.blobs import FolderBlobs
from openledger.storage.database import Transaction
from openledger.storage.records.data import contributions, texts
from openledger.storage.records.data.accounts import AccountKind
from openledger.storage.records.data.contributions import ContributionState
from openledger.storage.vault import Vault
from openledger.wiring.platform import Platform
from tests import market as fair
from tests.fakes import FailingTransport

LICENCE = "CC0-1.0"
TUNE = (
    "X:1\nT:The Spare Key\nM:4/4\nL:1/8\nK:D\n"
    "DFAd fdAF|GBdg bgdB|Acea c'aec|dfaf d4:|\nfdAF DFAd|bgdB GBdg|c'aec Acea|d2d2 d4:|\n"
)


def give(
    market: Platform,
    *files: File,
    name: str = "anna",
    licence: str = LICENCE,
    config: Config | None = None,
) -> Outcome:
    """What becomes of one person's files."""
    account = market.account(f"user/{name}", AccountKind.USER, name.title())
    intake = market.intake
    if config is not None:
        intake = msgspec.structs.replace(intake, config=config)
    submission = Submission(account, files, licence)
    owner = fair.operator(market)
    return contribute(intake, fair.datanet(market), owner, [submission])[0]


def sequence(market: Platform) -> object:
    """How often the Datanet changed on chain."""
    return market.acts.contracts.call("Datanets", "sequence", fair.datanet(market).number or 0)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (File("empty.txt", b""), r"empty\.txt is empty \(0 bytes\)"),
        (File("blank.txt", b" \n\t\n"), "only blanks"),
        (File("photo.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"), "photo.png"),
        (File("latin.txt", "Le vent soufflait, très fort, à l'été".encode("latin-1")), "UTF-8"),
        (File("wide.txt", "A tune".encode("utf-16")), "UTF-16|UTF-8"),
        (File("lines.jsonl", b'{"text": 7}\n'), "line 1 of lines.jsonl"),
        (File("book.abc", b"no tune at all"), "has no tune"),
    ],
)
def test_a_bad_file_is_refused_with_a_reason_before_anything_is_anchored(
    market: Platform, file: File, reason: str
) -> None:
    before = sequence(market)
    outcome = give(market, file)
    again = give(market, file)

    assert isinstance(outcome.refusal, InvalidInputError)
    assert re.search(reason, str(outcome.refusal))
    assert outcome.contribution.state is ContributionState.REJECTED
    assert outcome.contribution.number is None
    assert again.contribution.id == outcome.contribution.id
    assert str(again.refusal) == str(outcome.refusal)
    assert again.contribution.state is ContributionState.REJECTED
    assert sequence(market) == before


def test_a_gigantic_file_is_refused_by_its_size(market: Platform) -> None:
    config = Config(extract=ExtractConfig(largest_file_bytes=100))

    refusal = give(market, File("huge.txt", b"x" * 101), config=config).refusal

    assert isinstance(refusal, InvalidInputError)
    assert "more than the limit of 100" in str(refusal)


def test_no_file_at_all_is_refused(market: Platform) -> None:
    assert str(give(market).refusal) == "a contribution needs at least one file"


def test_a_licence_that_the_datanet_does_not_take_is_refused(market: Platform) -> None:
    row = b'{"text": "Words of my own, enough of them to be kept.", "licence": "GPL-3.0-only"}'
    refusal = give(market, File("words.jsonl", row)).refusal

    assert isinstance(refusal, NotAllowedError)
    assert "GPL-3.0-only" in str(refusal)


def test_what_was_refused_may_be_given_again_with_the_right_licence(market: Platform) -> None:
    file = File("key.abc", TUNE.encode())
    refused = give(market, file, licence="")
    before = sequence(market)
    mended = give(market, file)
    again = give(market, file, licence="")

    assert isinstance(refused.refusal, NotAllowedError)
    assert "licence" in str(refused.refusal)
    assert mended.refusal is None
    assert mended.contribution.id == refused.contribution.id
    assert again.contribution == mended.contribution  # what is in stays in
    assert isinstance(before, int)
    assert sequence(market) == before + 2


def test_what_was_refused_after_its_commit_goes_on_with_that_commit(market: Platform) -> None:
    """The look before the commit passed; what is stored after it did not."""
    account = market.account("user/anna", AccountKind.USER, "Anna")
    submission = Submission(account, (File("key.abc", TUNE.encode()),), LICENCE)
    owner = fair.operator(market)

    class Strict(Vault):
        def put(self, transaction: Transaction, owner: str, name: str, content: bytes) -> Digest:
            raise NotAllowedError("not on this day")

    key = market.keyring.private_key("vault/home")
    strict = msgspec.structs.replace(
        market.intake, vault=Strict(FolderBlobs(market.home.blobs), key)
    )
    refused = contribute(strict, fair.datanet(market), owner, [submission])[0]
    claimed = msgspec.structs.replace(submission, claim=1)
    mended = contribute(market.intake, fair.datanet(market), owner, [claimed])[0]

    assert str(refused.refusal) == "not on this day"
    assert refused.contribution.number is not None
    assert mended.refusal is None
    assert (mended.contribution.id, mended.contribution.number) == (
        refused.contribution.id,
        refused.contribution.number,
    )
    assert mended.contribution.claim == 1


def test_a_duplicate_is_refused_with_the_name_of_the_first(market: Platform) -> None:
    first = give(market, File("key.abc", TUNE.encode()), name="anna")
    same = TUNE.replace("\n", "  \r\n") + "\n\n"  # blanks and line ends make no other work
    copy = give(market, File("mine.abc", same.encode()), name="bert")

    assert first.refusal is None
    assert first.contribution.state is ContributionState.APPROVED
    assert isinstance(copy.refusal, DuplicateError)
    assert "Anna" in str(copy.refusal)
    assert copy.contribution.number is None


def test_one_bad_file_does_not_stop_the_others(market: Platform) -> None:
    anna = market.account("user/anna", AccountKind.USER, "Anna")
    bert = market.account("user/bert", AccountKind.USER, "Bert")
    wanted = [
        Submission(bert, (File("none.txt", b""),), LICENCE),
        Submission(anna, (File("key.abc", TUNE.encode()),), LICENCE),
    ]
    bad, good = contribute(market.intake, fair.datanet(market), fair.operator(market), wanted)

    assert bad.refusal is not None
    assert good.refusal is None


def test_two_who_bring_the_same_at_once_are_told_apart(market: Platform) -> None:
    """Both look before either has stored it; the one who stores second is refused."""
    anna = market.account("user/anna", AccountKind.USER, "Anna")
    bert = market.account("user/bert", AccountKind.USER, "Bert")
    wanted = [Submission(one, (File("key.abc", TUNE.encode()),), LICENCE) for one in (anna, bert)]
    first, second = contribute(market.intake, fair.datanet(market), fair.operator(market), wanted)

    assert first.refusal is None
    assert isinstance(second.refusal, DuplicateError)
    assert "Anna" in str(second.refusal)
    assert second.contribution.state is ContributionState.REJECTED
    with market.database.read() as transaction:
        assert list(texts.chunks_of(transaction, second.contribution.id)) == []


def test_contributing_again_changes_nothing(market: Platform) -> None:
    before = sequence(market)
    with market.database.read() as transaction:
        known = contributions.of_datanet(transaction, fair.datanet(market).id)
    again = fair.bring_tunes(market)

    assert [one.contribution for one in again] == known
    assert all(one.refusal is None for one in again)
    assert sequence(market) == before


@pytest.mark.parametrize("is_heard", [False, True])
def test_the_chain_may_go_down_at_every_request_and_the_end_is_the_same(
    market: Platform, is_heard: bool
) -> None:
    before = sequence(market)
    fault = FailingTransport(fair.direct(market), is_heard=is_heard)
    weak = fair.over(market, fault)
    failures = 0
    for patience in range(1, 60):
        fault.left = patience
        try:
            outcome = give(weak, File("key.abc", TUNE.encode()))
        except ChainUnavailableError:
            failures += 1
        else:
            break
    fault.left = None
    outcome = give(weak, File("key.abc", TUNE.encode()))

    assert failures > 3
    assert outcome.refusal is None
    assert isinstance(before, int)
    assert sequence(market) == before + 2  # one reveal, one approval
    assert market.acts.outbox.pump().waiting == 0


class WatchedBlobs(FolderBlobs):
    """Notes at each object that is stored whether its commit was final on chain by then."""

    def __init__(self, market: Platform) -> None:
        super().__init__(market.home.blobs)
        self.were_committed: list[bool] = []
        self._market = market

    def put(self, content: bytes) -> Digest:
        self.were_committed.append(is_committed(self._market))
        return super().put(content)


def is_committed(market: Platform) -> bool:
    """Whether the commit of the newest contribution is final on chain."""
    contracts = market.acts.contracts
    with market.database.read() as transaction:
        row = contributions.of_datanet(transaction, fair.datanet(market).id)[-1]
        sent = rows.find(transaction, op_id("commit", row.id))
    return (
        sent.state is rows.State.FINAL
        and row.commitment is not None
        and contracts.read(int, "Datanets", "contribution_of", row.contributor, row.commitment) > 0
    )


def test_nothing_is_stored_before_its_commit_is_final_on_chain(market: Platform) -> None:
    anna = market.account("user/anna", AccountKind.USER, "Anna")
    submission = Submission(anna, (File("key.abc", TUNE.encode()),), LICENCE)
    datanet, owner = fair.datanet(market), fair.operator(market)
    watched = WatchedBlobs(market)
    key = market.keyring.private_key("vault/home")
    fault = FailingTransport(fair.direct(market))
    fault.left = 0
    weak = msgspec.structs.replace(fair.over(market, fault).intake, vault=Vault(watched, key))
    with pytest.raises(ChainUnavailableError):
        contribute(weak, datanet, owner, [submission])
    with market.database.read() as transaction:
        waiting = contributions.of_datanet(transaction, datanet.id)[-1]
        assert list(texts.chunks_of(transaction, waiting.id)) == []
    assert watched.were_committed == []

    whole = msgspec.structs.replace(market.intake, vault=Vault(watched, key))
    outcome = contribute(whole, datanet, owner, [submission])[0]

    assert outcome.refusal is None
    assert outcome.contribution.id == waiting.id
    assert watched.were_committed
    assert all(watched.were_committed)


class FullBlobs(FolderBlobs):
    """A disk without room."""

    def put(self, content: bytes) -> Digest:
        with full_disk():
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_loses_nothing_and_the_same_again_goes_on(market: Platform) -> None:
    key = market.keyring.private_key("vault/home")
    anna = market.account("user/anna", AccountKind.USER, "Anna")
    submission = Submission(anna, (File("key.abc", TUNE.encode()),), LICENCE)
    full = msgspec.structs.replace(market.intake, vault=Vault(FullBlobs(market.home.blobs), key))
    owner = fair.operator(market)

    with pytest.raises(StorageFullError, match="disk is full"):
        contribute(full, fair.datanet(market), owner, [submission])
    with market.database.read() as transaction:
        kept = contributions.of_datanet(transaction, fair.datanet(market).id)[-1]
        assert list(texts.chunks_of(transaction, kept.id)) == []
    outcome = contribute(market.intake, fair.datanet(market), owner, [submission])[0]

    assert kept.state is ContributionState.COMMITTED
    assert outcome.refusal is None
    assert outcome.contribution.id == kept.id
