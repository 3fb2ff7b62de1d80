# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy on
"""
@title OPEN: one billion, minted once
@license Apache-2.0
@notice ERC-20 with signed approvals (EIP-2612) and signed transfers (EIP-3009), so that nobody
        needs gas to pay. There is no owner and no way to mint or burn: the supply is constant.
"""

from ethereum.ercs import IERC20
from modules import signatures

implements: IERC20

name: public(constant(String[10])) = "OpenLedger"
symbol: public(constant(String[4])) = "OPEN"
decimals: public(constant(uint8)) = 18
totalSupply: public(constant(uint256)) = 10**9 * 10**18

PERMIT: constant(bytes32) = keccak256(
    "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
)
TRANSFER: constant(bytes32) = keccak256(
    "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
RECEIVE: constant(bytes32) = keccak256(
    "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
CANCEL: constant(bytes32) = keccak256("CancelAuthorization(address authorizer,bytes32 nonce)")

event AuthorizationUsed:
    authorizer: indexed(address)
    nonce: indexed(bytes32)

event AuthorizationCanceled:
    authorizer: indexed(address)
    nonce: indexed(bytes32)

# account -> wei; __init__() and _transfer() write it, and the sum never changes
balanceOf: public(HashMap[address, uint256])

# owner -> spender -> wei; approve(), permit() set it, transferFrom() lowers it
allowance: public(HashMap[address, HashMap[address, uint256]])

# owner -> permits used so far; only permit() raises it
nonces: public(HashMap[address, uint256])

# authorizer -> nonce -> used or cancelled (EIP-3009); _authorize(), cancelAuthorization() set it
authorizationState: public(HashMap[address, HashMap[bytes32, bool]])


@deploy
def __init__(holder: address):
    """
    @notice Mint the whole supply.
    @param holder Who gets it.
    """
    assert holder != empty(address), "token: no holder"
    self.balanceOf[holder] = totalSupply
    log IERC20.Transfer(sender=empty(address), receiver=holder, value=totalSupply)


@external
def transfer(to: address, amount: uint256) -> bool:
    """
    @notice Send OPEN of the caller.
    @param to Receiver; neither zero nor this contract.
    @param amount Wei.
    @return Always true; a failure reverts.
    """
    self._transfer(msg.sender, to, amount)
    return True


@external
def transferFrom(owner: address, to: address, amount: uint256) -> bool:
    """
    @notice Send OPEN of somebody who approved the caller. An approval of 2**256 - 1 never falls.
    @param owner Whose OPEN.
    @param to Receiver; neither zero nor this contract.
    @param amount Wei.
    @return Always true; a failure reverts.
    """
    allowed: uint256 = self.allowance[owner][msg.sender]
    assert allowed >= amount, "token: over allowance"
    if allowed != max_value(uint256):
        self.allowance[owner][msg.sender] = allowed - amount
    self._transfer(owner, to, amount)
    return True


@external
def approve(spender: address, amount: uint256) -> bool:
    """
    @notice Let `spender` take up to `amount` of the caller's OPEN; replaces the earlier figure.
    @param spender Who may take.
    @param amount Wei; 2**256 - 1 for no limit.
    @return Always true.
    """
    self._approve(msg.sender, spender, amount)
    return True


@external
def permit(
    owner: address,
    spender: address,
    amount: uint256,
    deadline: uint256,
    v: uint8,
    r: bytes32,
    s: bytes32,
):
    """
    @notice `approve` by signature (EIP-2612); anyone may send it.
    @param owner Who signed.
    @param spender Who may take.
    @param amount Wei.
    @param deadline Last second at which it counts.
    @param v 27 or 28.
    @param r First half of the signature.
    @param s Second half, in the lower half of the order.
    """
    assert block.timestamp <= deadline, "token: too late"
    nonce: uint256 = self.nonces[owner]
    self.nonces[owner] = nonce + 1
    struct_hash: bytes32 = keccak256(abi_encode(PERMIT, owner, spender, amount, nonce, deadline))
    signer: address = signatures._recover(struct_hash, convert(v, uint256), r, s)
    assert signer == owner, "token: wrong signer"
    self._approve(owner, spender, amount)


@external
def transferWithAuthorization(
    owner: address,
    to: address,
    amount: uint256,
    validAfter: uint256,
    validBefore: uint256,
    nonce: bytes32,
    v: uint8,
    r: bytes32,
    s: bytes32,
):
    """
    @notice A transfer by signature (EIP-3009); anyone may send it, once.
    @param owner Who signed and pays.
    @param to Receiver.
    @param amount Wei.
    @param validAfter It counts after this second.
    @param validBefore It counts before this second.
    @param nonce Any 32 bytes that the owner never used.
    @param v 27 or 28.
    @param r First half of the signature.
    @param s Second half, in the lower half of the order.
    """
    struct_hash: bytes32 = keccak256(
        abi_encode(TRANSFER, owner, to, amount, validAfter, validBefore, nonce)
    )
    self._authorize(struct_hash, owner, validAfter, validBefore, nonce, v, r, s)
    self._transfer(owner, to, amount)


@external
def receiveWithAuthorization(
    owner: address,
    to: address,
    amount: uint256,
    validAfter: uint256,
    validBefore: uint256,
    nonce: bytes32,
    v: uint8,
    r: bytes32,
    s: bytes32,
):
    """
    @notice A transfer by signature that only its receiver may send (EIP-3009), so that nobody can
            pull it in front of a deposit.
    @param owner Who signed and pays.
    @param to Receiver; the caller.
    @param amount Wei.
    @param validAfter It counts after this second.
    @param validBefore It counts before this second.
    @param nonce Any 32 bytes that the owner never used.
    @param v 27 or 28.
    @param r First half of the signature.
    @param s Second half, in the lower half of the order.
    """
    assert to == msg.sender, "token: not the receiver"
    struct_hash: bytes32 = keccak256(
        abi_encode(RECEIVE, owner, to, amount, validAfter, validBefore, nonce)
    )
    self._authorize(struct_hash, owner, validAfter, validBefore, nonce, v, r, s)
    self._transfer(owner, to, amount)


@external
def cancelAuthorization(authorizer: address, nonce: bytes32, v: uint8, r: bytes32, s: bytes32):
    """
    @notice Make a signed transfer void before it is used (EIP-3009).
    @param authorizer Who signed it, and signs this.
    @param nonce Of the signed transfer.
    @param v 27 or 28.
    @param r First half of the signature.
    @param s Second half, in the lower half of the order.
    """
    assert not self.authorizationState[authorizer][nonce], "token: authorization used"
    struct_hash: bytes32 = keccak256(abi_encode(CANCEL, authorizer, nonce))
    signer: address = signatures._recover(struct_hash, convert(v, uint256), r, s)
    assert signer == authorizer, "token: wrong signer"
    self.authorizationState[authorizer][nonce] = True
    log AuthorizationCanceled(authorizer=authorizer, nonce=nonce)


@external
@view
def DOMAIN_SEPARATOR() -> bytes32:
    """
    @notice The EIP-712 domain of this contract on this chain (EIP-2612 asks for it).
    @return Its hash.
    """
    return signatures._domain_separator()


@internal
def _authorize(
    struct_hash: bytes32,
    owner: address,
    valid_after: uint256,
    valid_before: uint256,
    nonce: bytes32,
    v: uint8,
    r: bytes32,
    s: bytes32,
):
    assert block.timestamp > valid_after, "token: too early"
    assert block.timestamp < valid_before, "token: too late"
    assert not self.authorizationState[owner][nonce], "token: authorization used"
    signer: address = signatures._recover(struct_hash, convert(v, uint256), r, s)
    assert signer == owner, "token: wrong signer"
    self.authorizationState[owner][nonce] = True
    log AuthorizationUsed(authorizer=owner, nonce=nonce)


@internal
def _transfer(owner: address, to: address, amount: uint256):
    assert to != empty(address) and to != self, "token: no receiver"
    assert self.balanceOf[owner] >= amount, "token: over balance"
    self.balanceOf[owner] -= amount
    self.balanceOf[to] += amount
    log IERC20.Transfer(sender=owner, receiver=to, value=amount)


@internal
def _approve(owner: address, spender: address, amount: uint256):
    self.allowance[owner][spender] = amount
    log IERC20.Approval(owner=owner, spender=spender, value=amount)
