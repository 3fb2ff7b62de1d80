# pragma version 0.4.3
# pragma evm-version cancun
"""
@title Who acts: an account itself, or anyone who relays its controller's signature
@notice The twin `F_for(account, ..., deadline, signature)` of a function F checks the EIP-712
        struct F(address account, ..., uint256 nonce, uint256 deadline). Structs and arrays among
        the arguments enter as the keccak256 of their ABI encoding. Nonces are sequential per
        account and contract, so a signed action happens once and in order.
"""

from interfaces import IIdentity
from modules import signatures

# account -> number of relayed actions so far; only _take_nonce() raises it
nonces: public(HashMap[address, uint256])


@internal
def _take_nonce(account: address) -> uint256:
    nonce: uint256 = self.nonces[account]
    self.nonces[account] = nonce + 1
    return nonce


@internal
@view
def _signer_of(struct_hash: bytes32, deadline: uint256, signature: Bytes[65]) -> address:
    assert block.timestamp <= deadline, "relay: too late"
    return signatures._signer_of(struct_hash, signature)


@internal
@view
def _require_signed(
    identity: IIdentity,
    account: address,
    struct_hash: bytes32,
    deadline: uint256,
    signature: Bytes[65],
):
    signer: address = self._signer_of(struct_hash, deadline, signature)
    assert staticcall identity.controller_of(account) == signer, "relay: not the controller"


@internal
@view
def _require_sender(identity: IIdentity, account: address):
    assert staticcall identity.controller_of(account) == msg.sender, "relay: not the controller"
