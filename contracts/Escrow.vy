# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy on
"""
@title Prepaid money, drawn by receipts under a signed limit
@license Apache-2.0
@notice A payer deposits for one gateway and signs vouchers: a cumulative limit over all his calls
        there. The gateway settles a closed range of its receipts at a time: it shows the last
        receipt of each payer, proved to stand in the epoch's Merkle tree, and draws what the
        running totals grew by. The very last receipt's total over all payers must equal the old
        total plus what the receipts say: no receipt, no draw; no draw without its receipt.
        What is drawn goes to `Payouts`, never to the gateway. Where a payer's voucher or money no
        longer covers his receipts, the gateway that served him pays instead, out of what its
        controller approved: nobody can keep others from their money by not paying. It gets that
        back when a later voucher and deposit cover it.
"""

from interfaces import IIdentity
from interfaces import IOpenToken
from interfaces import IPayouts
from modules import evidence
from modules import relay

initializes: relay
exports: relay.nonces

MAX_DRAWS: constant(uint256) = 32  # payers of one epoch
REQUEST_EXIT: constant(bytes32) = keccak256(
    "RequestExit(address account,address gateway,uint256 amount,uint256 nonce,uint256 deadline)"
)
EXIT: constant(bytes32) = keccak256(
    "Exit(address account,address gateway,uint256 nonce,uint256 deadline)"
)

token: public(immutable(address))
payouts: public(immutable(address))
identity: public(immutable(address))
exit_delay: public(immutable(uint256))  # seconds between request_exit and exit

struct Balance:  # wei, all three only ever rise; free = deposited - spent - withdrawn
    deposited: uint256
    spent: uint256
    withdrawn: uint256

struct Exit:
    amount: uint256  # wei
    ready_at: uint256  # unix seconds; zero: none is requested

struct Epoch:
    first: uint256  # gateway sequence of its first receipt
    size: uint256  # receipts
    root: bytes32  # over call digest || statement digest, 64 bytes each

event Deposited:
    payer: indexed(address)
    gateway: indexed(address)
    amount: uint256
    op: bytes32

event DepositRepeated:
    sender: indexed(address)
    op: indexed(bytes32)

event Drawn:
    payer: indexed(address)
    gateway: indexed(address)
    amount: uint256
    spent: uint256

event Unpaid:
    payer: indexed(address)
    gateway: indexed(address)
    amount: uint256  # wei of all his receipts that the gateway paid for him

event Settled:
    gateway: indexed(address)
    number: indexed(uint256)
    first: uint256
    size: uint256
    root: bytes32
    amount: uint256

event ExitRequested:
    payer: indexed(address)
    gateway: indexed(address)
    amount: uint256
    ready_at: uint256

event Exited:
    payer: indexed(address)
    gateway: indexed(address)
    payee: address
    amount: uint256

# payer -> gateway -> balance; _deposit() raises deposited, _draw() spent, _exit() withdrawn
balance_of: public(HashMap[address, HashMap[address, Balance]])

# payer -> gateway -> exit that waits; _request_exit() sets it, _exit() clears it
exits: public(HashMap[address, HashMap[address, Exit]])

# payer -> gateway -> wei of all settled receipts; what exceeds `spent` the gateway paid for him
charged: public(HashMap[address, HashMap[address, uint256]])

# sender -> op -> deposited before; the deposits set it
ops: public(HashMap[address, HashMap[bytes32, bool]])

# gateway -> wei of all settled receipts; only settle() raises it
drawn: public(HashMap[address, uint256])

# gateway -> wei of it that the gateway paid for its payers and did not get back; settle() moves it
covered: public(HashMap[address, uint256])

# gateway -> receipts settled; only settle() raises it
_settled: HashMap[address, uint256]

# gateway -> number of epochs, the newest one's number; only settle() raises it
epoch_count: public(HashMap[address, uint256])

# gateway -> number -> epoch; settle() writes it once
epochs: public(HashMap[address, HashMap[uint256, Epoch]])


@deploy
def __init__(token_contract: address, payouts_contract: address, exit_delay_s: uint256):
    """
    @notice Deploy, after `Payouts`, which must know this address; it names `Identity`.
    @param token_contract `OpenToken`.
    @param payouts_contract `Payouts`.
    @param exit_delay_s Seconds between request_exit and exit.
    """
    assert staticcall IPayouts(payouts_contract).escrow() == self, "escrow: wrong payouts"
    assert staticcall IPayouts(payouts_contract).token() == token_contract, "escrow: wrong token"
    token = token_contract
    payouts = payouts_contract
    identity = staticcall IPayouts(payouts_contract).identity()
    exit_delay = exit_delay_s


@external
def deposit(payer: address, gateway: address, amount: uint256, op: bytes32):
    """
    @notice Take OPEN that the caller approved, for a payer's calls at a gateway. An `op` that the
            caller used before changes nothing, so a repeat is safe.
    @param payer Whose calls.
    @param gateway Where.
    @param amount Wei.
    @param op Chosen by the caller, new for each deposit.
    """
    if self._deposit(msg.sender, payer, gateway, amount, op):
        taken: bool = extcall IOpenToken(token).transferFrom(msg.sender, self, amount)
        assert taken, "escrow: transfer failed"


@external
def deposit_for(
    account: address,
    gateway: address,
    amount: uint256,
    op: bytes32,
    valid_before: uint256,
    signature: Bytes[65],
):
    """
    @notice A payer's own deposit, relayed by anyone.
    @param account The payer, whose key signed.
    @param gateway Where.
    @param amount Wei.
    @param op New for each deposit of this account.
    @param valid_before It counts before this second.
    @param signature Over `OpenToken`'s ReceiveWithAuthorization(account, this contract, amount, 0,
           valid_before, keccak256(abi.encode(gateway, op))).
    """
    if self._deposit(account, account, gateway, amount, op):
        assert len(signature) == 65, "escrow: 65 bytes of signature needed"
        extcall IOpenToken(token).receiveWithAuthorization(
            account,
            self,
            amount,
            0,
            valid_before,
            keccak256(abi_encode(gateway, op)),
            convert(slice(signature, 64, 1), uint8),
            extract32(signature, 0),
            extract32(signature, 32),
        )


@external
def settle(
    gateway: address,
    first: uint256,
    size: uint256,
    root: bytes32,
    draws: DynArray[evidence.Draw, MAX_DRAWS],
):
    """
    @notice Settle the gateway's next receipts; the caller is its controller. What payers leave
            unpaid is taken from the caller, who approves it before.
    @param gateway Whose receipts.
    @param first Sequence of the first one: `next_sequence`.
    @param size How many.
    @param root Merkle root over call digest || statement digest of each.
    @param draws The last receipt of every payer whose total grew, by rising index; the very last
           receipt of the epoch closes the list.
    """
    controller: address = staticcall IIdentity(identity).controller_of(gateway)
    assert msg.sender == controller, "escrow: not the gateway"
    assert first == self._settled[gateway] + 1, "escrow: not the next receipt"
    assert len(draws) != 0, "escrow: no receipt"
    fees: uint256 = 0  # of the epoch's receipts
    paid: uint256 = 0  # by payers, for these and for what the gateway paid for them before
    following: uint256 = 0  # least index of the next draw
    total: uint256 = 0  # the gateway's, by the receipt looked at last
    for draw: evidence.Draw in draws:
        assert draw.index >= following, "escrow: draws not rising"
        following = draw.index + 1
        assert draw.receipt.gateway_sequence == first + draw.index, "escrow: wrong sequence"
        evidence._check_receipt(gateway, size, root, draw)
        fees += self._charge(gateway, draw)
        paid += self._draw(gateway, draw)
        total = draw.receipt.gateway_total
    assert following == size, "escrow: last receipt missing"
    assert total == self.drawn[gateway] + fees, "escrow: totals do not chain"
    number: uint256 = self.epoch_count[gateway] + 1
    self.drawn[gateway] = total
    self._settled[gateway] = first + size - 1
    self.epoch_count[gateway] = number
    self.epochs[gateway][number] = Epoch(first=first, size=size, root=root)
    log Settled(
        gateway=gateway, number=number, first=first, size=size, root=root, amount=fees
    )
    self._even_out(gateway, fees, paid)
    if fees != 0:
        assert extcall IOpenToken(token).transfer(payouts, fees), "escrow: transfer failed"
        extcall IPayouts(payouts).fund(gateway, fees)


@external
def request_exit(gateway: address, amount: uint256):
    """
    @notice Ask for free money of the caller back; a new request replaces the one that waits.
    @param gateway Where it lies.
    @param amount Wei, at most what is free now. Until the exit it still covers calls.
    """
    relay._require_sender(IIdentity(identity), msg.sender)
    self._request_exit(msg.sender, gateway, amount)


@external
def request_exit_for(
    account: address, gateway: address, amount: uint256, deadline: uint256, signature: Bytes[65]
):
    """
    @notice `request_exit`, relayed by anyone.
    @param account The payer.
    @param gateway Where it lies.
    @param amount Wei, at most what is free now.
    @param deadline Last second at which it counts.
    @param signature Over `RequestExit`, by the account's controller.
    """
    struct_hash: bytes32 = keccak256(
        abi_encode(REQUEST_EXIT, account, gateway, amount, relay._take_nonce(account), deadline)
    )
    relay._require_signed(IIdentity(identity), account, struct_hash, deadline, signature)
    self._request_exit(account, gateway, amount)


@external
def exit(gateway: address):
    """
    @notice Pay out the caller's request after its delay, or what is still free of it, to the
            account's payee.
    @param gateway Where it lies.
    """
    relay._require_sender(IIdentity(identity), msg.sender)
    self._exit(msg.sender, gateway)


@external
def exit_for(account: address, gateway: address, deadline: uint256, signature: Bytes[65]):
    """
    @notice `exit`, relayed by anyone.
    @param account The payer.
    @param gateway Where it lies.
    @param deadline Last second at which it counts.
    @param signature Over `Exit`, by the account's controller.
    """
    struct_hash: bytes32 = keccak256(
        abi_encode(EXIT, account, gateway, relay._take_nonce(account), deadline)
    )
    relay._require_signed(IIdentity(identity), account, struct_hash, deadline, signature)
    self._exit(account, gateway)


@external
@view
def next_sequence(gateway: address) -> uint256:
    """
    @notice Where the gateway's next epoch begins.
    @param gateway Any address.
    @return Sequence of the first receipt not settled, from 1.
    """
    return self._settled[gateway] + 1


@external
@view
def channel_id(channel: evidence.Channel) -> bytes32:
    """
    @notice What a voucher signs for these conditions.
    @param channel The payer's conditions.
    @return keccak256 over chain id, this contract, token and all fields.
    """
    return evidence._channel_id(token, channel)


@external
@view
def call_digest(receipt: evidence.CallReceipt) -> bytes32:
    """
    @notice The EIP-712 digest of a call receipt, first half of its leaf.
    @param receipt The receipt.
    @return 32 bytes.
    """
    return evidence._call_digest(receipt)


@internal
def _charge(gateway: address, draw: evidence.Draw) -> uint256:
    payer: address = draw.channel.payer
    before: uint256 = self.charged[payer][gateway]
    assert draw.receipt.payer_total >= before, "escrow: payer total fell"
    self.charged[payer][gateway] = draw.receipt.payer_total
    return draw.receipt.payer_total - before


@internal
def _draw(gateway: address, draw: evidence.Draw) -> uint256:
    payer: address = draw.channel.payer
    balance: Balance = self.balance_of[payer][gateway]
    spent: uint256 = balance.spent
    if evidence._is_covered(IIdentity(identity), token, gateway, draw):
        spent = min(draw.receipt.payer_total, balance.deposited - balance.withdrawn)
        self.balance_of[payer][gateway].spent = spent
        log Drawn(payer=payer, gateway=gateway, amount=spent - balance.spent, spent=spent)
    if spent != draw.receipt.payer_total:
        log Unpaid(payer=payer, gateway=gateway, amount=draw.receipt.payer_total - spent)
    return spent - balance.spent


@internal
def _even_out(gateway: address, fees: uint256, paid: uint256):
    if paid == fees:
        return
    self.covered[gateway] = self.covered[gateway] + fees - paid
    if paid < fees:
        taken: bool = extcall IOpenToken(token).transferFrom(msg.sender, self, fees - paid)
        assert taken, "escrow: transfer failed"
    else:
        payee: address = staticcall IIdentity(identity).payee_of(gateway)
        assert extcall IOpenToken(token).transfer(payee, paid - fees), "escrow: transfer failed"


@internal
def _deposit(
    sender: address, payer: address, gateway: address, amount: uint256, op: bytes32
) -> bool:
    if self.ops[sender][op]:
        log DepositRepeated(sender=sender, op=op)
        return False
    assert payer != empty(address), "escrow: no payer"
    assert gateway != empty(address), "escrow: no gateway"
    assert amount != 0, "escrow: nothing to deposit"
    self.ops[sender][op] = True
    self.balance_of[payer][gateway].deposited += amount
    log Deposited(payer=payer, gateway=gateway, amount=amount, op=op)
    return True


@internal
def _request_exit(payer: address, gateway: address, amount: uint256):
    assert amount != 0, "escrow: nothing to exit"
    assert amount <= self._free(payer, gateway), "escrow: over free balance"
    ready_at: uint256 = block.timestamp + exit_delay
    self.exits[payer][gateway] = Exit(amount=amount, ready_at=ready_at)
    log ExitRequested(payer=payer, gateway=gateway, amount=amount, ready_at=ready_at)


@internal
def _exit(payer: address, gateway: address):
    request: Exit = self.exits[payer][gateway]
    assert request.ready_at != 0, "escrow: no exit requested"
    assert block.timestamp >= request.ready_at, "escrow: too early"
    amount: uint256 = min(request.amount, self._free(payer, gateway))
    assert amount != 0, "escrow: nothing left"
    payee: address = staticcall IIdentity(identity).payee_of(payer)
    self.exits[payer][gateway] = empty(Exit)
    self.balance_of[payer][gateway].withdrawn += amount
    log Exited(payer=payer, gateway=gateway, payee=payee, amount=amount)
    assert extcall IOpenToken(token).transfer(payee, amount), "escrow: transfer failed"


@internal
@view
def _free(payer: address, gateway: address) -> uint256:
    balance: Balance = self.balance_of[payer][gateway]
    return balance.deposited - balance.spent - balance.withdrawn
