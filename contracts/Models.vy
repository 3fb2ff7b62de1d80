# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy on
"""
@title Training runs and releases: committed before the first step, priced with notice
@license Apache-2.0
@notice A run names recipe, data and method before training; its seed comes from a block that did
        not exist then, so nobody tries seeds until one pays. What came out is released with its
        digests, price and split policy; price and policy are versioned and a rise needs notice.
"""

from interfaces import IIdentity
from modules import relay
from modules import model_state

initializes: relay
initializes: model_state
exports: (
    relay.nonces,
    model_state.datanets,
    model_state.seed_delay_blocks,
    model_state.notice_s,
    model_state.run_count,
    model_state.release_count,
    model_state.runs,
    model_state.run_of,
    model_state.runs_begun,
    model_state.releases,
    model_state.version_count,
    model_state.release_of,
    model_state.terms_count,
)

BEGIN: constant(bytes32) = keccak256(
    "Begin(address account,bytes32 op,bytes32 recipe,bytes32 manifest_root,uint256 manifest_size,uint256 method,bytes32 versions,uint256 nonce,uint256 deadline)"
)
RELEASE: constant(bytes32) = keccak256(
    "Release(address account,uint256 run,bytes32 slug,bytes32 base,bytes32 adapter,bytes32 training_root,uint256 training_size,bytes32 price,bytes32 policy,uint256 nonce,uint256 deadline)"
)
PROPOSE_TERMS: constant(bytes32) = keccak256(
    "ProposeTerms(address account,uint256 release,bytes32 price,bytes32 policy,uint256 nonce,uint256 deadline)"
)
DEPRECATE: constant(bytes32) = keccak256(
    "Deprecate(address account,uint256 release,uint256 nonce,uint256 deadline)"
)

identity: public(immutable(IIdentity))


@deploy
def __init__(
    identity_contract: address, datanets_contract: address, delay_blocks: uint256, notice: uint256
):
    """
    @notice Deploy.
    @param identity_contract `Identity`.
    @param datanets_contract `Datanets`.
    @param delay_blocks Blocks between begin and the seed's block: 20 on a public chain.
    @param notice Seconds of notice before a rise or a new policy.
    """
    identity = IIdentity(identity_contract)
    model_state.__init__(datanets_contract, delay_blocks, notice)


@external
def begin(
    op: bytes32,
    recipe: bytes32,
    manifest_root: bytes32,
    manifest_size: uint256,
    method: uint256,
    versions: DynArray[model_state.DatanetVersion, model_state.MAX_VERSIONS],
) -> uint256:
    """
    @notice Announce a training run of the caller before its first step.
    @param op Chosen by the caller, new for each run, so that a repeat is found by `run_of`.
    @param recipe Digest of every hyper-parameter.
    @param manifest_root Merkle root over the ordered training documents.
    @param manifest_size Number of its leaves.
    @param method Version of the attribution method.
    @param versions The Datanets as they stand now, ids rising.
    @return Id of the run, from 1.
    """
    relay._require_sender(identity, msg.sender)
    return model_state._begin(msg.sender, op, recipe, manifest_root, manifest_size, method, versions)


@external
def begin_for(
    account: address,
    op: bytes32,
    recipe: bytes32,
    manifest_root: bytes32,
    manifest_size: uint256,
    method: uint256,
    versions: DynArray[model_state.DatanetVersion, model_state.MAX_VERSIONS],
    deadline: uint256,
    signature: Bytes[65],
) -> uint256:
    """
    @notice `begin`, relayed by anyone.
    @param account The builder.
    @param op New for each run of this account.
    @param recipe Digest of every hyper-parameter.
    @param manifest_root Merkle root over the ordered training documents.
    @param manifest_size Number of its leaves.
    @param method Version of the attribution method.
    @param versions The Datanets as they stand now, ids rising; signed as their hash.
    @param deadline Last second at which it counts.
    @param signature Over `Begin`, by the account's controller.
    @return Id of the run, from 1.
    """
    struct_hash: bytes32 = keccak256(
        abi_encode(
            BEGIN,
            account,
            op,
            recipe,
            manifest_root,
            manifest_size,
            method,
            keccak256(abi_encode(versions)),
            relay._take_nonce(account),
            deadline,
        )
    )
    relay._require_signed(identity, account, struct_hash, deadline, signature)
    return model_state._begin(account, op, recipe, manifest_root, manifest_size, method, versions)


@external
def draw_seed(run: uint256):
    """
    @notice Fix the seed of a run, once its block has a hash; anyone may. When the hash is no longer
            to be had, the target moves on instead, and the run counts the miss for all to see.
    @param run Its id.
    """
    model_state._draw_seed(run)


@external
def release(
    run: uint256,
    slug: bytes32,
    base: bytes32,
    adapter: bytes32,
    training_root: bytes32,
    training_size: uint256,
    price: model_state.Price,
    policy: model_state.Policy,
) -> uint256:
    """
    @notice Publish what a run of the caller made; one release per run, after its seed is drawn.
    @param run Its id.
    @param slug Name of the model, per owner; not zero. A second release is its version 2.
    @param base Digest of the base model.
    @param adapter Digest of the adapter.
    @param training_root Merkle root over what was trained on.
    @param training_size Number of its leaves.
    @param price Wei per 1,000 input tokens, per 1,000 output tokens, per request.
    @param policy Basis points that sum to 10,000; platform at least 500, data at least the
           highest floor of the run's Datanets.
    @return Id of the release, from 1.
    """
    relay._require_sender(identity, msg.sender)
    return model_state._release(
        msg.sender, run, slug, base, adapter, training_root, training_size, price, policy
    )


@external
def release_for(
    account: address,
    run: uint256,
    slug: bytes32,
    base: bytes32,
    adapter: bytes32,
    training_root: bytes32,
    training_size: uint256,
    price: model_state.Price,
    policy: model_state.Policy,
    deadline: uint256,
    signature: Bytes[65],
) -> uint256:
    """
    @notice `release`, relayed by anyone.
    @param account The builder.
    @param run Its id.
    @param slug Name of the model, per owner; not zero.
    @param base Digest of the base model.
    @param adapter Digest of the adapter.
    @param training_root Merkle root over what was trained on.
    @param training_size Number of its leaves.
    @param price As of `release`; signed as its hash.
    @param policy As of `release`; signed as its hash.
    @param deadline Last second at which it counts.
    @param signature Over `Release`, by the account's controller.
    @return Id of the release, from 1.
    """
    struct_hash: bytes32 = keccak256(
        abi_encode(
            RELEASE,
            account,
            run,
            slug,
            base,
            adapter,
            training_root,
            training_size,
            keccak256(abi_encode(price)),
            keccak256(abi_encode(policy)),
            relay._take_nonce(account),
            deadline,
        )
    )
    relay._require_signed(identity, account, struct_hash, deadline, signature)
    return model_state._release(
        account, run, slug, base, adapter, training_root, training_size, price, policy
    )


@external
def propose_terms(release: uint256, price: model_state.Price, policy: model_state.Policy) -> uint256:
    """
    @notice Change price or policy of a release of the caller. At once when no price rises and the
            policy stays, else after notice; a proposal still waiting is superseded.
    @param release Its id.
    @param price The new price.
    @param policy The new policy, under the same bounds.
    @return Version of these terms.
    """
    relay._require_sender(identity, msg.sender)
    return model_state._propose_terms(msg.sender, release, price, policy)


@external
def propose_terms_for(
    account: address,
    release: uint256,
    price: model_state.Price,
    policy: model_state.Policy,
    deadline: uint256,
    signature: Bytes[65],
) -> uint256:
    """
    @notice `propose_terms`, relayed by anyone.
    @param account Owner of the release.
    @param release Its id.
    @param price The new price; signed as its hash.
    @param policy The new policy; signed as its hash.
    @param deadline Last second at which it counts.
    @param signature Over `ProposeTerms`, by the account's controller.
    @return Version of these terms.
    """
    struct_hash: bytes32 = keccak256(
        abi_encode(
            PROPOSE_TERMS,
            account,
            release,
            keccak256(abi_encode(price)),
            keccak256(abi_encode(policy)),
            relay._take_nonce(account),
            deadline,
        )
    )
    relay._require_signed(identity, account, struct_hash, deadline, signature)
    return model_state._propose_terms(account, release, price, policy)


@external
def deprecate(release: uint256):
    """
    @notice Say that a release of the caller should no longer be used; its receipts stay good.
    @param release Its id.
    """
    relay._require_sender(identity, msg.sender)
    model_state._deprecate(msg.sender, release)


@external
def deprecate_for(account: address, release: uint256, deadline: uint256, signature: Bytes[65]):
    """
    @notice `deprecate`, relayed by anyone.
    @param account Owner of the release.
    @param release Its id.
    @param deadline Last second at which it counts.
    @param signature Over `Deprecate`, by the account's controller.
    """
    struct_hash: bytes32 = keccak256(
        abi_encode(DEPRECATE, account, release, relay._take_nonce(account), deadline)
    )
    relay._require_signed(identity, account, struct_hash, deadline, signature)
    model_state._deprecate(account, release)


@external
@view
def seed_of(run: uint256) -> bytes32:
    """
    @notice The seed of a run.
    @param run Its id.
    @return Zero while it is not drawn.
    """
    return model_state.runs[run].seed


@external
@view
def terms_of(release: uint256, version: uint256) -> model_state.Terms:
    """
    @notice Terms of a release, in force or not.
    @param release Its id.
    @param version From 1.
    @return Price, policy, when they take effect, and the version before.
    """
    assert version != 0 and version <= model_state.terms_count[release], "models: unknown terms"
    return model_state._terms[release][version]


@external
@view
def terms_version(release: uint256) -> uint256:
    """
    @notice The version of a release's terms that is in force now.
    @param release Its id.
    @return From 1.
    """
    assert model_state.releases[release].owner != empty(address), "models: unknown release"
    return model_state._terms_version(release)
