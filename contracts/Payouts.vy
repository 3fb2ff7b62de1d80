# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy on
"""
@title Money owed: cumulative payouts per gateway and account, pulled by proof
@license Apache-2.0
@notice `Escrow` funds a gateway with what its vouchers drew. The gateway proposes a Merkle root of
        everything each account ever earned; after a delay, in which the guardian may veto, the
        root is active and anyone claims for any account. Amounts are cumulative: one claim pays
        all epochs missed, an old proof never pays twice. The account with this contract's own
        address is the commons; nobody can claim it. Nobody can sweep anything.
        Leaf: abi.encode(chain id, this contract, gateway, account, cumulative), 160 bytes.
"""

from interfaces import IIdentity
from interfaces import IOpenToken
from interfaces import IPayouts
from modules import merkle

implements: IPayouts

ROOTS_KEPT: constant(uint256) = 8  # a root is claimable until this many newer ones are active
MAX_CLAIMS: constant(uint256) = 8  # gateways in one call
LONGEST_PAUSE_S: constant(uint256) = 7 * 86_400
PAUSE_INTERVAL_S: constant(uint256) = 30 * 86_400  # from the start of one pause to the next

token: public(immutable(address))
identity: public(immutable(address))
escrow: public(immutable(address))
guardian: public(immutable(address))
delay: public(immutable(uint256))  # seconds between propose and activate

struct Root:
    root: bytes32
    size: uint256  # leaves
    total: uint256  # wei, the sum of all leaves

struct Pending:
    root: bytes32
    size: uint256
    total: uint256
    ready_at: uint256  # unix seconds; zero: nothing is proposed

struct Claim:
    gateway: address
    number: uint256
    cumulative: uint256
    index: uint256
    proof: DynArray[bytes32, merkle.MAX_PATH]

event Funded:
    gateway: indexed(address)
    amount: uint256

event Proposed:
    gateway: indexed(address)
    root: bytes32
    size: uint256
    total: uint256
    ready_at: uint256

event Vetoed:
    gateway: indexed(address)
    root: bytes32
    reason: bytes32

event Activated:
    gateway: indexed(address)
    number: indexed(uint256)
    root: bytes32
    size: uint256
    total: uint256

event Claimed:
    gateway: indexed(address)
    account: indexed(address)
    payee: indexed(address)
    amount: uint256
    cumulative: uint256

event Paused:
    until: uint256

# gateway -> wei drawn by its vouchers and handed over here; only fund() raises it
funded: public(HashMap[address, uint256])

# gateway -> wei in its newest active root; only activate() raises it
promised: public(HashMap[address, uint256])

# gateway -> wei claimed through it; only _credit() raises it
paid: public(HashMap[address, uint256])

# gateway -> account -> wei claimed; only _credit() raises it
claimed: public(HashMap[address, HashMap[address, uint256]])

# gateway -> number of active roots, the newest one's number; only activate() raises it
root_count: public(HashMap[address, uint256])

# gateway -> number -> root; activate() writes it once
roots: public(HashMap[address, HashMap[uint256, Root]])

# gateway -> root that waits; propose() sets it, activate() and veto() clear it
pending: public(HashMap[address, Pending])

# unix seconds until which propose and activate rest; only pause() writes it
paused_until: public(uint256)

# unix seconds from which the guardian may pause again; only pause() writes it
next_pause_at: public(uint256)


@deploy
def __init__(
    token_contract: address,
    identity_contract: address,
    escrow_contract: address,
    delay_s: uint256,
    guardian_account: address,
):
    """
    @notice Deploy, before `Escrow`, whose address follows from the deployer's next nonce.
    @param token_contract `OpenToken`.
    @param identity_contract `Identity`.
    @param escrow_contract `Escrow`, the only one that funds.
    @param delay_s Seconds between propose and activate.
    @param guardian_account May veto and, for a week, pause; nothing else.
    """
    token = token_contract
    identity = identity_contract
    escrow = escrow_contract
    delay = delay_s
    guardian = guardian_account


@external
def fund(gateway: address, amount: uint256):
    """
    @notice Record wei that `Escrow` has just transferred here.
    @param gateway Whose vouchers drew it.
    @param amount Wei.
    """
    assert msg.sender == escrow, "payouts: not the escrow"
    self.funded[gateway] += amount
    log Funded(gateway=gateway, amount=amount)


@external
def propose(gateway: address, root: bytes32, size: uint256, total: uint256):
    """
    @notice Propose the next root; the caller is the gateway's controller.
    @param gateway Whose payouts.
    @param root Merkle root over the leaves, by account.
    @param size Number of leaves.
    @param total Wei, the sum of all leaves: never less than promised, never more than funded.
    """
    self._require_running()
    controller: address = staticcall IIdentity(identity).controller_of(gateway)
    assert msg.sender == controller, "payouts: not the gateway"
    assert self.pending[gateway].ready_at == 0, "payouts: one is pending"
    assert size != 0, "payouts: empty tree"
    assert total >= self.promised[gateway], "payouts: total must not fall"
    assert total <= self.funded[gateway], "payouts: over funds"
    ready_at: uint256 = block.timestamp + delay
    self.pending[gateway] = Pending(root=root, size=size, total=total, ready_at=ready_at)
    log Proposed(gateway=gateway, root=root, size=size, total=total, ready_at=ready_at)


@external
def veto(gateway: address, reason: bytes32):
    """
    @notice Drop a pending root; the caller is the guardian.
    @param gateway Whose root.
    @param reason Digest of the reason; not zero.
    """
    assert msg.sender == guardian, "payouts: not the guardian"
    dropped: Pending = self.pending[gateway]
    assert dropped.ready_at != 0, "payouts: nothing pending"
    assert reason != empty(bytes32), "payouts: no reason"
    self.pending[gateway] = empty(Pending)
    log Vetoed(gateway=gateway, root=dropped.root, reason=reason)


@external
def activate(gateway: address):
    """
    @notice Make a pending root claimable after its delay; anyone may.
    @param gateway Whose root.
    """
    self._require_running()
    ready: Pending = self.pending[gateway]
    assert ready.ready_at != 0, "payouts: nothing pending"
    assert block.timestamp >= ready.ready_at, "payouts: too early"
    number: uint256 = self.root_count[gateway] + 1
    self.pending[gateway] = empty(Pending)
    self.root_count[gateway] = number
    self.roots[gateway][number] = Root(root=ready.root, size=ready.size, total=ready.total)
    self.promised[gateway] = ready.total
    log Activated(
        gateway=gateway, number=number, root=ready.root, size=ready.size, total=ready.total
    )


@external
def claim(
    account: address,
    gateway: address,
    number: uint256,
    cumulative: uint256,
    index: uint256,
    proof: DynArray[bytes32, merkle.MAX_PATH],
):
    """
    @notice Pay an account what a root owes it and what it has not claimed yet; anyone may. The
            money goes to the account's payee. No pause stops it.
    @param account Who earned.
    @param gateway Through whom.
    @param number Of an active root, one of the newest eight.
    @param cumulative Wei that the leaf names.
    @param index Of the leaf.
    @param proof Siblings from the leaf upwards.
    """
    payee: address = staticcall IIdentity(identity).payee_of(account)
    amount: uint256 = self._credit(
        account,
        payee,
        Claim(gateway=gateway, number=number, cumulative=cumulative, index=index, proof=proof),
    )
    self._pay(payee, amount)


@external
def claim_many(account: address, claims: DynArray[Claim, MAX_CLAIMS]):
    """
    @notice `claim` from several gateways in one transfer. A claim that somebody else has made in
            the meantime adds nothing instead of stopping the others.
    @param account Who earned.
    @param claims One for each gateway.
    """
    payee: address = staticcall IIdentity(identity).payee_of(account)
    amount: uint256 = 0
    for claim: Claim in claims:
        amount += self._credit(account, payee, claim)
    self._pay(payee, amount)


@external
def pause(duration: uint256):
    """
    @notice Rest propose and activate, so that a fault can be looked into; the caller is the
            guardian. Claims go on. No second pause starts within 30 days of the first.
    @param duration Seconds, up to 7 days.
    """
    assert msg.sender == guardian, "payouts: not the guardian"
    assert duration <= LONGEST_PAUSE_S, "payouts: pause too long"
    assert block.timestamp >= self.next_pause_at, "payouts: paused lately"
    self.paused_until = block.timestamp + duration
    self.next_pause_at = block.timestamp + PAUSE_INTERVAL_S
    log Paused(until=block.timestamp + duration)


@internal
@view
def _require_running():
    assert block.timestamp >= self.paused_until, "payouts: paused"


@internal
def _credit(account: address, payee: address, claim: Claim) -> uint256:
    assert account != self, "payouts: the commons claims nothing"
    newest: uint256 = self.root_count[claim.gateway]
    assert claim.number != 0 and claim.number <= newest, "payouts: unknown root"
    assert claim.number + ROOTS_KEPT > newest, "payouts: root too old"
    root: Root = self.roots[claim.gateway][claim.number]
    leaf: Bytes[160] = abi_encode(chain.id, self, claim.gateway, account, claim.cumulative)
    assert merkle._is_proof(
        merkle._leaf_hash(leaf), claim.index, root.size, claim.proof, root.root
    ), "payouts: bad proof"
    done: uint256 = self.claimed[claim.gateway][account]
    if claim.cumulative <= done:
        return 0
    amount: uint256 = claim.cumulative - done
    # A root whose leaves sum to more than its total cannot take another gateway's money.
    paid: uint256 = self.paid[claim.gateway] + amount
    assert paid <= self.promised[claim.gateway], "payouts: over promised"
    self.claimed[claim.gateway][account] = claim.cumulative
    self.paid[claim.gateway] = paid
    log Claimed(
        gateway=claim.gateway,
        account=account,
        payee=payee,
        amount=amount,
        cumulative=claim.cumulative,
    )
    return amount


@internal
def _pay(payee: address, amount: uint256):
    assert amount != 0, "payouts: nothing to claim"
    assert extcall IOpenToken(token).transfer(payee, amount), "payouts: transfer failed"
