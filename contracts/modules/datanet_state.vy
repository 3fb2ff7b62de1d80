# pragma version 0.4.3
# pragma evm-version cancun
"""
@title The state of `Datanets` and the rules by which it moves
@notice The caller decides who acts; every function here takes the acting account.
"""

COMMIT_TAG: constant(bytes32) = keccak256("OL-COMMIT-1")
BASIS_POINTS: constant(uint256) = 10_000
LEAST_PLATFORM_BPS: constant(uint256) = 500  # `Models` keeps this part of a fee from the data

# States of a contribution; the head binds the one that a change leads to.
COMMITTED: constant(uint256) = 1
REVEALED: constant(uint256) = 2
APPROVED: constant(uint256) = 3
REJECTED: constant(uint256) = 4
WITHDRAWN: constant(uint256) = 5

LAST_CLAIM: constant(uint256) = 2  # 0 author, 1 licensee, 2 collector

reveal_delay_blocks: public(immutable(uint256))  # least blocks between commit and reveal
reveal_window_s: public(immutable(uint256))  # most seconds between commit and reveal

struct Datanet:
    owner: address
    slug: bytes32
    rules: bytes32  # digest of licences, format and review rules
    data_floor_bps: uint256  # least data part of a fee, of 10,000
    withdrawal_days: uint256  # notice that the owner promises to need for a withdrawal

struct Contribution:
    datanet: uint256
    contributor: address
    state: uint256
    committed_block: uint256
    committed_at: uint256  # unix seconds
    commitment: bytes32
    root: bytes32  # over the chunks; zero until revealed, as what follows
    size: uint256  # chunks
    manifest: bytes32  # digest of the manifest
    claim: uint256  # 0 author, 1 licensee, 2 collector
    on_behalf: bool  # the contributor's account was opened by somebody else

event Created:
    datanet: indexed(uint256)
    owner: indexed(address)
    slug: bytes32
    rules: bytes32
    data_floor_bps: uint256
    withdrawal_days: uint256

event Committed:
    datanet: indexed(uint256)
    contribution: indexed(uint256)
    contributor: indexed(address)
    commitment: bytes32

event Revealed:
    datanet: indexed(uint256)
    contribution: indexed(uint256)
    contributor: indexed(address)
    root: bytes32
    size: uint256
    manifest: bytes32
    claim: uint256
    on_behalf: bool
    sequence: uint256
    head: bytes32

event Approved:
    datanet: indexed(uint256)
    contribution: indexed(uint256)
    contributor: indexed(address)
    sequence: uint256
    head: bytes32

event Rejected:
    datanet: indexed(uint256)
    contribution: indexed(uint256)
    contributor: indexed(address)
    reason: bytes32
    sequence: uint256
    head: bytes32

event Withdrawn:
    datanet: indexed(uint256)
    contribution: indexed(uint256)
    contributor: indexed(address)
    sequence: uint256
    head: bytes32

# number of Datanets, the last one's id; only _create() raises it
datanet_count: public(uint256)

# number of contributions, the last one's id; only _commit() raises it
contribution_count: public(uint256)

# id -> Datanet; _create() writes it once
datanets: public(HashMap[uint256, Datanet])

# owner -> slug -> id; _create() writes it once
id_of: public(HashMap[address, HashMap[bytes32, uint256]])

# id -> contribution; _commit(), _reveal() and _move() write it
contributions: public(HashMap[uint256, Contribution])

# contributor -> commitment -> id; _commit() writes it once
contribution_of: public(HashMap[address, HashMap[bytes32, uint256]])

# Datanet -> number of changes; only _move() raises it
sequence: public(HashMap[uint256, uint256])

# Datanet -> rolling head over all its changes; only _move() writes it
head: public(HashMap[uint256, bytes32])


@deploy
def __init__(delay_blocks: uint256, window_s: uint256):
    reveal_delay_blocks = delay_blocks
    reveal_window_s = window_s


@internal
@view
def _exists(datanet: uint256) -> bool:
    return datanet != 0 and datanet <= self.datanet_count


@internal
def _create(
    owner: address,
    slug: bytes32,
    rules: bytes32,
    data_floor_bps: uint256,
    withdrawal_days: uint256,
) -> uint256:
    assert slug != empty(bytes32), "datanets: no slug"
    assert self.id_of[owner][slug] == 0, "datanets: slug taken"
    assert data_floor_bps <= BASIS_POINTS - LEAST_PLATFORM_BPS, "datanets: floor too high"
    datanet: uint256 = self.datanet_count + 1
    self.datanet_count = datanet
    self.id_of[owner][slug] = datanet
    self.datanets[datanet] = Datanet(
        owner=owner,
        slug=slug,
        rules=rules,
        data_floor_bps=data_floor_bps,
        withdrawal_days=withdrawal_days,
    )
    log Created(
        datanet=datanet,
        owner=owner,
        slug=slug,
        rules=rules,
        data_floor_bps=data_floor_bps,
        withdrawal_days=withdrawal_days,
    )
    return datanet


@internal
def _commit(contributor: address, datanet: uint256, commitment: bytes32) -> uint256:
    assert self._exists(datanet), "datanets: unknown datanet"
    assert self.contribution_of[contributor][commitment] == 0, "datanets: committed before"
    contribution: uint256 = self.contribution_count + 1
    self.contribution_count = contribution
    self.contribution_of[contributor][commitment] = contribution
    self.contributions[contribution].datanet = datanet
    self.contributions[contribution].contributor = contributor
    self.contributions[contribution].state = COMMITTED
    self.contributions[contribution].committed_block = block.number
    self.contributions[contribution].committed_at = block.timestamp
    self.contributions[contribution].commitment = commitment
    log Committed(
        datanet=datanet,
        contribution=contribution,
        contributor=contributor,
        commitment=commitment,
    )
    return contribution


@internal
def _reveal(
    contributor: address,
    contribution: uint256,
    salted_digest: bytes32,
    root: bytes32,
    size: uint256,
    manifest: bytes32,
    claim: uint256,
    on_behalf: bool,
):
    found: Contribution = self.contributions[contribution]
    assert found.contributor == contributor, "datanets: not the contributor"
    assert found.state == COMMITTED, "datanets: not to be revealed"
    assert (
        block.number >= found.committed_block + reveal_delay_blocks
    ), "datanets: revealed too early"
    assert (
        block.timestamp <= found.committed_at + reveal_window_s
    ), "datanets: revealed too late"
    assert found.commitment == keccak256(
        abi_encode(COMMIT_TAG, chain.id, self, found.datanet, contributor, salted_digest)
    ), "datanets: not what was committed"
    assert size != 0, "datanets: empty contribution"
    assert claim <= LAST_CLAIM, "datanets: unknown claim"
    self.contributions[contribution].root = root
    self.contributions[contribution].size = size
    self.contributions[contribution].manifest = manifest
    self.contributions[contribution].claim = claim
    self.contributions[contribution].on_behalf = on_behalf
    sequence: uint256 = self._move(contribution, REVEALED)
    log Revealed(
        datanet=found.datanet,
        contribution=contribution,
        contributor=contributor,
        root=root,
        size=size,
        manifest=manifest,
        claim=claim,
        on_behalf=on_behalf,
        sequence=sequence,
        head=self.head[found.datanet],
    )


@internal
def _approve(owner: address, contribution: uint256):
    found: Contribution = self.contributions[contribution]
    assert self.datanets[found.datanet].owner == owner, "datanets: not the owner"
    assert found.state == REVEALED, "datanets: not to be approved"
    sequence: uint256 = self._move(contribution, APPROVED)
    log Approved(
        datanet=found.datanet,
        contribution=contribution,
        contributor=found.contributor,
        sequence=sequence,
        head=self.head[found.datanet],
    )


@internal
def _reject(owner: address, contribution: uint256, reason: bytes32):
    found: Contribution = self.contributions[contribution]
    assert self.datanets[found.datanet].owner == owner, "datanets: not the owner"
    assert found.state == REVEALED or found.state == APPROVED, "datanets: not to be rejected"
    assert reason != empty(bytes32), "datanets: no reason"
    sequence: uint256 = self._move(contribution, REJECTED)
    log Rejected(
        datanet=found.datanet,
        contribution=contribution,
        contributor=found.contributor,
        reason=reason,
        sequence=sequence,
        head=self.head[found.datanet],
    )


@internal
def _withdraw(contributor: address, contribution: uint256):
    found: Contribution = self.contributions[contribution]
    assert found.contributor == contributor, "datanets: not the contributor"
    assert (
        found.state >= REVEALED and found.state <= REJECTED
    ), "datanets: not to be withdrawn"
    sequence: uint256 = self._move(contribution, WITHDRAWN)
    log Withdrawn(
        datanet=found.datanet,
        contribution=contribution,
        contributor=contributor,
        sequence=sequence,
        head=self.head[found.datanet],
    )


@internal
def _move(contribution: uint256, state: uint256) -> uint256:
    found: Contribution = self.contributions[contribution]
    sequence: uint256 = self.sequence[found.datanet] + 1
    self.contributions[contribution].state = state
    self.sequence[found.datanet] = sequence
    self.head[found.datanet] = keccak256(
        abi_encode(
            self.head[found.datanet],
            sequence,
            state,
            contribution,
            found.contributor,
            found.root,
            found.size,
        )
    )
    return sequence
