# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy on
"""
@title Datanets and the contributions in them: facts, no money
@license Apache-2.0
@notice A contributor first commits to a salted digest of his raw bytes, before anything of them
        is stored, then reveals the Merkle root of the cleaned chunks; the Datanet's owner approves or
        rejects. Every change moves the Datanet's rolling head
        head' = keccak256(abi.encode(head, sequence', state', contribution, contributor, root, size))
        from zero, so whoever replays the events and misses or reorders one does not reach the
        head on chain. Nothing readable stands here: digests and roots only.
"""

from interfaces import IDatanets
from interfaces import IIdentity
from modules import datanet_state
from modules import relay

implements: IDatanets
initializes: relay
initializes: datanet_state
exports: (
    relay.nonces,
    datanet_state.reveal_delay_blocks,
    datanet_state.reveal_window_s,
    datanet_state.datanet_count,
    datanet_state.contribution_count,
    datanet_state.datanets,
    datanet_state.id_of,
    datanet_state.contributions,
    datanet_state.contribution_of,
    datanet_state.sequence,
    datanet_state.head,
)

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


@deploy
def __init__(identity_contract: address, delay_blocks: uint256, window_s: uint256):
    """
    @notice Deploy.
    @param identity_contract `Identity`.
    @param delay_blocks Least blocks between commit and reveal.
    @param window_s Most seconds between commit and reveal.
    """
    identity = IIdentity(identity_contract)
    datanet_state.__init__(delay_blocks, window_s)


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
    return datanet_state._create(msg.sender, slug, rules, data_floor_bps, withdrawal_days)


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
    return datanet_state._create(account, slug, rules, data_floor_bps, withdrawal_days)


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
    return datanet_state._commit(msg.sender, datanet, commitment)


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
    return datanet_state._commit(account, datanet, commitment)


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
    datanet_state._reveal(
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
    datanet_state._reveal(account, contribution, salted_digest, root, size, manifest, claim, on_behalf)


@external
def approve(contribution: uint256):
    """
    @notice Accept a revealed contribution; the caller owns the Datanet.
    @param contribution Its id.
    """
    relay._require_sender(identity, msg.sender)
    datanet_state._approve(msg.sender, contribution)


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
    datanet_state._approve(account, contribution)


@external
def reject(contribution: uint256, reason: bytes32):
    """
    @notice Refuse a revealed contribution, or one approved earlier; the caller owns the Datanet.
    @param contribution Its id.
    @param reason Digest of the reason; not zero.
    """
    relay._require_sender(identity, msg.sender)
    datanet_state._reject(msg.sender, contribution, reason)


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
    datanet_state._reject(account, contribution, reason)


@external
def withdraw(contribution: uint256):
    """
    @notice Take a revealed contribution of the caller out of all later training.
    @param contribution Its id.
    """
    relay._require_sender(identity, msg.sender)
    datanet_state._withdraw(msg.sender, contribution)


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
    datanet_state._withdraw(account, contribution)


@external
@view
def version_of(datanet: uint256) -> (uint256, bytes32, uint256):
    """
    @notice A Datanet as it stands: what a training run binds.
    @param datanet Its id.
    @return Sequence, head, least data part in basis points.
    """
    assert datanet_state._exists(datanet), "datanets: unknown datanet"
    return datanet_state.sequence[datanet], datanet_state.head[datanet], datanet_state.datanets[datanet].data_floor_bps
