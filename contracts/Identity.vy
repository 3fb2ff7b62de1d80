# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy on
"""
@title Who speaks for an account, and where its money goes
@license Apache-2.0
@notice An account is an address that never changes. Its controller signs for it, its payee gets
        its money, its recovery key takes it back from a thief. Unless changed, an account is its
        own controller and payee. Changes wait for `delay`; a recovery key's proposal
        stands above the controller's.
"""

from interfaces import IIdentity
from modules import relay
from modules import signatures

implements: IIdentity
initializes: relay
exports: relay.nonces

REGISTER: constant(bytes32) = keccak256(
    "Register(address account,address payee,address recovery,uint256 nonce,uint256 deadline)"
)
PROPOSE_CHANGE: constant(bytes32) = keccak256(
    "ProposeChange(address account,address controller,address payee,address recovery,uint256 nonce,uint256 deadline)"
)
CANCEL_CHANGE: constant(bytes32) = keccak256(
    "CancelChange(address account,uint256 nonce,uint256 deadline)"
)

struct Keys:
    controller: address  # zero until register()
    payee: address
    recovery: address  # zero: the account has none, for ever

struct Change:
    keys: Keys
    ready_at: uint256  # unix seconds; zero: nothing is proposed
    by_recovery: bool

event Registered:
    account: indexed(address)
    payee: address
    recovery: address

event ChangeProposed:
    account: indexed(address)
    controller: address
    payee: address
    recovery: address
    ready_at: uint256
    by_recovery: bool

event ChangeCancelled:
    account: indexed(address)

event Changed:
    account: indexed(address)
    controller: address
    payee: address
    recovery: address

delay: public(immutable(uint256))  # seconds between a proposal and its effect

# account -> keys in force; register() and apply_change() write it
_keys: HashMap[address, Keys]

# account -> proposed keys; propose_change() sets it, apply_change() and cancel_change() clear it
changes: public(HashMap[address, Change])


@deploy
def __init__(change_delay: uint256):
    """
    @notice Deploy.
    @param change_delay Seconds between a proposal and its effect: 7 days on a public chain.
    """
    delay = change_delay


@external
def register(payee: address, recovery: address):
    """
    @notice Name payee and recovery key of the caller's account, once; later changes wait.
    @param payee Where the account's money goes; not zero.
    @param recovery Key that wins over the controller; zero for none, which is final.
    """
    self._register(msg.sender, payee, recovery)


@external
def register_for(
    account: address, payee: address, recovery: address, deadline: uint256, signature: Bytes[65]
):
    """
    @notice `register`, relayed by anyone.
    @param account Who signed.
    @param payee Where the account's money goes; not zero.
    @param recovery Key that wins over the controller; zero for none, which is final.
    @param deadline Last second at which it counts.
    @param signature Over `Register`, by the account's own key.
    """
    nonce: uint256 = relay._take_nonce(account)
    signer: address = relay._signer_of(
        keccak256(abi_encode(REGISTER, account, payee, recovery, nonce, deadline)),
        deadline,
        signature,
    )
    assert signer == account, "identity: not the account"
    self._register(account, payee, recovery)


@external
def propose_change(account: address, controller: address, payee: address, recovery: address):
    """
    @notice Propose new keys; the caller is the controller or the recovery key. The controller
            cannot touch the recovery key nor replace a recovery key's proposal.
    @param account Whose keys; registered.
    @param controller New controller; not zero.
    @param payee New payee; not zero.
    @param recovery New recovery key.
    """
    self._propose_change(msg.sender, account, controller, payee, recovery)


@external
def propose_change_for(
    account: address,
    controller: address,
    payee: address,
    recovery: address,
    deadline: uint256,
    signature: Bytes[65],
):
    """
    @notice `propose_change`, relayed by anyone.
    @param account Whose keys; its nonce counts, whoever signs.
    @param controller New controller; not zero.
    @param payee New payee; not zero.
    @param recovery New recovery key.
    @param deadline Last second at which it counts.
    @param signature Over `ProposeChange`, by the controller or the recovery key.
    """
    nonce: uint256 = relay._take_nonce(account)
    signer: address = relay._signer_of(
        keccak256(
            abi_encode(PROPOSE_CHANGE, account, controller, payee, recovery, nonce, deadline)
        ),
        deadline,
        signature,
    )
    self._propose_change(signer, account, controller, payee, recovery)


@external
def cancel_change(account: address):
    """
    @notice Drop a proposal: the recovery key drops any, the controller only its own.
    @param account Whose proposal.
    """
    self._cancel_change(msg.sender, account)


@external
def cancel_change_for(account: address, deadline: uint256, signature: Bytes[65]):
    """
    @notice `cancel_change`, relayed by anyone.
    @param account Whose proposal.
    @param deadline Last second at which it counts.
    @param signature Over `CancelChange`, by the controller or the recovery key.
    """
    nonce: uint256 = relay._take_nonce(account)
    signer: address = relay._signer_of(
        keccak256(abi_encode(CANCEL_CHANGE, account, nonce, deadline)), deadline, signature
    )
    self._cancel_change(signer, account)


@external
def apply_change(account: address):
    """
    @notice Put a proposal into force after its delay; anyone may.
    @param account Whose proposal.
    """
    change: Change = self.changes[account]
    assert change.ready_at != 0, "identity: nothing proposed"
    assert block.timestamp >= change.ready_at, "identity: too early"
    self.changes[account] = empty(Change)
    self._keys[account] = change.keys
    log Changed(
        account=account,
        controller=change.keys.controller,
        payee=change.keys.payee,
        recovery=change.keys.recovery,
    )


@external
@view
def controller_of(account: address) -> address:
    """
    @notice Who signs for an account.
    @param account Any address.
    @return The account itself unless changed.
    """
    return self._controller_of(account)


@external
@view
def payee_of(account: address) -> address:
    """
    @notice Where an account's money goes.
    @param account Any address.
    @return The account itself unless registered otherwise.
    """
    payee: address = self._keys[account].payee
    return account if payee == empty(address) else payee


@external
@view
def recovery_of(account: address) -> address:
    """
    @notice The recovery key of an account.
    @param account Any address.
    @return Zero when it has none.
    """
    return self._keys[account].recovery


@internal
@view
def _controller_of(account: address) -> address:
    controller: address = self._keys[account].controller
    return account if controller == empty(address) else controller


@internal
def _register(account: address, payee: address, recovery: address):
    assert self._keys[account].controller == empty(address), "identity: registered before"
    assert payee != empty(address), "identity: no payee"
    assert recovery != account, "identity: recovery is the account"
    self._keys[account] = Keys(controller=account, payee=payee, recovery=recovery)
    log Registered(account=account, payee=payee, recovery=recovery)


@internal
def _propose_change(
    actor: address, account: address, controller: address, payee: address, recovery: address
):
    keys: Keys = self._keys[account]
    assert keys.controller != empty(address), "identity: register first"
    assert controller != empty(address), "identity: no controller"
    assert payee != empty(address), "identity: no payee"
    by_recovery: bool = self._is_recovery(actor, account)
    if not by_recovery:
        assert recovery == keys.recovery, "identity: only the recovery key changes itself"
    ready_at: uint256 = block.timestamp + delay
    self.changes[account] = Change(
        keys=Keys(controller=controller, payee=payee, recovery=recovery),
        ready_at=ready_at,
        by_recovery=by_recovery,
    )
    log ChangeProposed(
        account=account,
        controller=controller,
        payee=payee,
        recovery=recovery,
        ready_at=ready_at,
        by_recovery=by_recovery,
    )


@internal
def _cancel_change(actor: address, account: address):
    assert self.changes[account].ready_at != 0, "identity: nothing proposed"
    self._is_recovery(actor, account)
    self.changes[account] = empty(Change)
    log ChangeCancelled(account=account)


@internal
@view
def _is_recovery(actor: address, account: address) -> bool:
    # Whoever is neither key is refused; so is the controller once the recovery key has spoken.
    if actor == self._keys[account].recovery:
        return True
    assert actor == self._controller_of(account), "identity: neither controller nor recovery"
    assert not self.changes[account].by_recovery, "identity: the recovery key has spoken"
    return False
