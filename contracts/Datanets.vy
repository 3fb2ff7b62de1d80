# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy on
"""
@title Datanets and the contributions in them: facts, no money
@license Apache-2.0
@notice A contributor first commits to a salted digest of his raw bytes, before any byte leaves
        him, then reveals the Merkle root of the cleaned chunks; the Datanet's owner approves or
        rejects. Every change moves the Datanet's rolling head
        head' = keccak256(abi.encode(head, sequence', state', contribution, contributor, root, size))
        from zero, so whoever replays the events and misses or reorders one does not reach the
        head on chain. Nothing readable stands here: digests and roots only.
"""

from interfaces import IDatanets
from interfaces import IIdentity
from modules import relay
from modules import signatures

implements: IDatanets
initializes: relay
exports: relay.nonces

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

CREATE: constant(bytes32) = keccak256(
    "Create(address account,bytes32 slug,bytes32 rules,uint256 data_floor_bps,uint256 withdrawal_days,uint256 nonce,uint256 deadline)"
)
COMMIT: constant(bytes32) = keccak256(
    "Commit(address account,uint256 datanet,bytes32 commitment,uint256 nonce,uint256 deadline)"
)
REVEAL: constant(bytes32) = keccak256(
    "Reveal(address account,uint256 contribution,bytes32 salted_digest,bytes32 root,uint256 size,bytes32 manifest,uint256 claim,bool on_behalf,uint256 nonce,uint256 deadline)"
)
APPROVE: constant(bytes32) = keccak256(
    "Approve(address account,uint256 contribution,uint256 nonce,uint256 deadline)"
)
REJECT: constant(bytes32) = keccak256(
    "Reject(address account,uint256 contribution,bytes32 reason,uint256 nonce,uint256 deadline)"
)
WITHDRAW: constant(bytes32) = keccak256(
    "Withdraw(address account,uint256 contribution,uint256 nonce,uint256 deadline)"
)

identity: public(immutable(IIdentity))
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
def __init__(identity_contract: address, delay_blocks: uint256, window_s: uint256):
    """
    @notice Deploy.
    @param identity_contract `Identity`.
    @param delay_blocks Least blocks between commit and reveal.
    @param window_s Most seconds between commit and reveal.
    """
    identity = IIdentity(identity_contract)
    reveal_delay_blocks = delay_blocks
    reveal_window_s = window_s


@external
def create(
    slug: bytes32, rules: bytes32, data_floor_bps: uint256, withdrawal_days: uint256
) -> uint256:
    """
    @notice Open a Datanet of the caller.
    @param slug Its short name, unique per owner; not zero.
    @param rules Digest of its rules; they never change.
    @param data_floor_bps Least data part of a fee, up to 9,500 of 10,000.
    @param withdrawal_days Notice that the owner promises to need for a withdrawal.
    @return Its id, from 1.
    """
    relay._require_sender(identity, msg.sender)
    return self._create(msg.sender, slug, rules, data_floor_bps, withdrawal_days)


@external
def create_for(
    account: address,
    slug: bytes32,
    rules: bytes32,
    data_floor_bps: uint256,
    withdrawal_days: uint256,
    deadline: uint256,
    signature: Bytes[65],
) -> uint256:
    """
    @notice `create`, relayed by anyone.
    @param account The owner.
    @param slug Its short name, unique per owner; not zero.
    @param rules Digest of its rules; they never change.
    @param data_floor_bps Least data part of a fee, up to 9,500 of 10,000.
    @param withdrawal_days Notice that the owner promises to need for a withdrawal.
    @param deadline Last second at which it counts.
    @param signature Over `Create`, by the account's controller.
    @return Its id, from 1.
    """
    struct_hash: bytes32 = keccak256(
        abi_encode(
            CREATE,
            account,
            slug,
            rules,
            data_floor_bps,
            withdrawal_days,
            relay._take_nonce(account),
            deadline,
        )
    )
    relay._require_signed(identity, account, struct_hash, deadline, signature)
    return self._create(account, slug, rules, data_floor_bps, withdrawal_days)


@external
def commit(datanet: uint256, commitment: bytes32) -> uint256:
    """
    @notice Commit to a contribution of the caller before showing it.
    @param datanet Where to.
    @param commitment keccak256(abi.encode(keccak256("OL-COMMIT-1"), chain id, this contract,
           datanet, contributor, salted digest)); new for this contributor.
    @return Id of the contribution, from 1.
    """
    relay._require_sender(identity, msg.sender)
    return self._commit(msg.sender, datanet, commitment)


@external
def commit_for(
    account: address,
    datanet: uint256,
    commitment: bytes32,
    deadline: uint256,
    signature: Bytes[65],
) -> uint256:
    """
    @notice `commit`, relayed by anyone.
    @param account The contributor.
    @param datanet Where to.
    @param commitment As of `commit`.
    @param deadline Last second at which it counts.
    @param signature Over `Commit`, by the account's controller.
    @return Id of the contribution, from 1.
    """
    struct_hash: bytes32 = keccak256(
        abi_encode(COMMIT, account, datanet, commitment, relay._take_nonce(account), deadline)
    )
    relay._require_signed(identity, account, struct_hash, deadline, signature)
    return self._commit(account, datanet, commitment)


@external
def reveal(
    contribution: uint256,
    salted_digest: bytes32,
    root: bytes32,
    size: uint256,
    manifest: bytes32,
    claim: uint256,
    on_behalf: bool,
):
    """
    @notice Show what the caller committed to.
    @param contribution Its id.
    @param salted_digest What the commitment hides; public from now on, the salt is not.
    @param root Merkle root over the cleaned chunks.
    @param size Number of chunks, at least 1.
    @param manifest Digest of the manifest.
    @param claim By what right: 0 author, 1 licensee, 2 collector.
    @param on_behalf The contributor's account was opened by somebody else.
    """
    relay._require_sender(identity, msg.sender)
    self._reveal(
        msg.sender, contribution, salted_digest, root, size, manifest, claim, on_behalf
    )


@external
def reveal_for(
    account: address,
    contribution: uint256,
    salted_digest: bytes32,
    root: bytes32,
    size: uint256,
    manifest: bytes32,
    claim: uint256,
    on_behalf: bool,
    deadline: uint256,
    signature: Bytes[65],
):
    """
    @notice `reveal`, relayed by anyone.
    @param account The contributor.
    @param contribution Its id.
    @param salted_digest What the commitment hides; public from now on, the salt is not.
    @param root Merkle root over the cleaned chunks.
    @param size Number of chunks, at least 1.
    @param manifest Digest of the manifest.
    @param claim By what right: 0 author, 1 licensee, 2 collector.
    @param on_behalf The contributor's account was opened by somebody else.
    @param deadline Last second at which it counts.
    @param signature Over `Reveal`, by the account's controller.
    """
    struct_hash: bytes32 = keccak256(
        abi_encode(
            REVEAL,
            account,
            contribution,
            salted_digest,
            root,
            size,
            manifest,
            claim,
            on_behalf,
            relay._take_nonce(account),
            deadline,
        )
    )
    relay._require_signed(identity, account, struct_hash, deadline, signature)
    self._reveal(account, contribution, salted_digest, root, size, manifest, claim, on_behalf)


@external
def approve(contribution: uint256):
    """
    @notice Accept a revealed contribution; the caller owns the Datanet.
    @param contribution Its id.
    """
    relay._require_sender(identity, msg.sender)
    self._approve(msg.sender, contribution)


@external
def approve_for(
    account: address, contribution: uint256, deadline: uint256, signature: Bytes[65]
):
    """
    @notice `approve`, relayed by anyone.
    @param account Owner of the Datanet.
    @param contribution Its id.
    @param deadline Last second at which it counts.
    @param signature Over `Approve`, by the account's controller.
    """
    struct_hash: bytes32 = keccak256(
        abi_encode(APPROVE, account, contribution, relay._take_nonce(account), deadline)
    )
    relay._require_signed(identity, account, struct_hash, deadline, signature)
    self._approve(account, contribution)


@external
def reject(contribution: uint256, reason: bytes32):
    """
    @notice Refuse a revealed contribution, or one approved earlier; the caller owns the Datanet.
    @param contribution Its id.
    @param reason Digest of the reason; not zero.
    """
    relay._require_sender(identity, msg.sender)
    self._reject(msg.sender, contribution, reason)


@external
def reject_for(
    account: address,
    contribution: uint256,
    reason: bytes32,
    deadline: uint256,
    signature: Bytes[65],
):
    """
    @notice `reject`, relayed by anyone.
    @param account Owner of the Datanet.
    @param contribution Its id.
    @param reason Digest of the reason; not zero.
    @param deadline Last second at which it counts.
    @param signature Over `Reject`, by the account's controller.
    """
    struct_hash: bytes32 = keccak256(
        abi_encode(REJECT, account, contribution, reason, relay._take_nonce(account), deadline)
    )
    relay._require_signed(identity, account, struct_hash, deadline, signature)
    self._reject(account, contribution, reason)


@external
def withdraw(contribution: uint256):
    """
    @notice Take a revealed contribution of the caller out of all later training.
    @param contribution Its id.
    """
    relay._require_sender(identity, msg.sender)
    self._withdraw(msg.sender, contribution)


@external
def withdraw_for(
    account: address, contribution: uint256, deadline: uint256, signature: Bytes[65]
):
    """
    @notice `withdraw`, relayed by anyone.
    @param account The contributor.
    @param contribution Its id.
    @param deadline Last second at which it counts.
    @param signature Over `Withdraw`, by the account's controller.
    """
    struct_hash: bytes32 = keccak256(
        abi_encode(WITHDRAW, account, contribution, relay._take_nonce(account), deadline)
    )
    relay._require_signed(identity, account, struct_hash, deadline, signature)
    self._withdraw(account, contribution)


@external
@view
def version_of(datanet: uint256) -> (uint256, bytes32, uint256):
    """
    @notice A Datanet as it stands: what a training run binds.
    @param datanet Its id.
    @return Sequence, head, least data part in basis points.
    """
    assert self._exists(datanet), "datanets: unknown datanet"
    return self.sequence[datanet], self.head[datanet], self.datanets[datanet].data_floor_bps


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
