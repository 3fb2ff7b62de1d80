"""Acting without gas: the twin `f_for` of a function, signed by the one who acts.

Every contract has one counter of signed acts per account, `nonces(account)`, so a signature is
made only when it is about to be sent; what was queued before it has been mined by then.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final, cast

import msgspec
from eth_utils.crypto import keccak

from openledger.chain.abi import Function, Parameter, Value, encode_values
from openledger.chain.contracts import Contracts, interface
from openledger.chain.keys import Keyring
from openledger.core.errors import InvalidInputError
from openledger.core.signing import Domain, Field, TypedRecord, sign_typed
from openledger.core.types import Account, Wei

_ACCOUNT: Final = Parameter("account", "address")
_GATEWAY_AND_OP: Final = (Parameter("gateway", "address"), Parameter("op", "bytes32"))


class ReceiveWithAuthorization(TypedRecord, frozen=True):
    """What a payer signs to let Escrow take his OPEN (EIP-3009)."""

    owner: Account
    to: Account
    amount: Wei
    valid_after: int
    valid_before: int
    nonce: str  # 64 hex digits

    solidity: ClassVar[Mapping[str, str]] = {
        "from": "address",
        "to": "address",
        "value": "uint256",
        "validAfter": "uint256",
        "validBefore": "uint256",
        "nonce": "bytes32",
    }


class Relay:
    """Signs acts for the accounts of a keyring.

    Args:
        contracts: where they stand.
        keyring: whose accounts may act.
        clock: microseconds since 1970; a deadline is later than this and than the newest block.
    """

    def __init__(self, contracts: Contracts, keyring: Keyring, clock: Callable[[], int]) -> None:
        self._contracts = contracts
        self._keyring = keyring
        self._clock = clock

    def actor(self, what: str, calldata: bytes, acting: str) -> Account:
        """Whose counter of signed acts an act moves."""
        contract, _, name = what.partition(".")
        function = interface(contract).function(name)
        if names_account(function):
            return cast(Account, function.decode_arguments(calldata)[0])
        return self._keyring.account(acting)

    def twin(self, what: str, calldata: bytes, acting: str) -> bytes:
        """Calldata of `f_for` out of that of `f`, signed by the key `acting` for its account.

        Args:
            what: "Datanets.commit".
            calldata: of `f`.
            acting: the label of the key.

        Raises:
            InvalidInputError: the act is not that key's to do.
            ChainUnavailableError: the account's counter could not be read.
        """
        contract, _, name = what.partition(".")
        function = interface(contract).function(name)
        arguments = function.decode_arguments(calldata)
        if what == "Escrow.deposit":
            return self._deposit(arguments, acting)
        actor = self._keyring.account(acting)
        full = arguments if names_account(function) else (actor, *arguments)
        nonce = self._contracts.read(int, contract, "nonces", cast(Account, full[0]))
        deadline = self._deadline()
        record = typed_act(function, full, nonce, deadline)
        signature = self._sign(self._contracts.domain(contract), record, acting)
        twin = interface(contract).function(f"{name}_for")
        return twin.encode([*full, deadline, signature])

    def _deposit(self, arguments: tuple[Value, ...], acting: str) -> bytes:
        """The twin of `Escrow.deposit` moves the payer's own OPEN, by EIP-3009."""
        payer, gateway, amount, op = arguments
        if payer != self._keyring.account(acting):
            raise InvalidInputError(
                f"{acting} can deposit its own OPEN only, not that of {payer!s}"
            )
        valid_before = self._deadline()
        record = ReceiveWithAuthorization(
            owner=cast(Account, payer),
            to=self._contracts.deployment.escrow,
            amount=cast(Wei, amount),
            valid_after=0,
            valid_before=valid_before,
            nonce=keccak(encode_values(_GATEWAY_AND_OP, [gateway, op])).hex(),
        )
        signature = self._sign(self._contracts.domain("OpenToken"), record, acting)
        twin = interface("Escrow").function("deposit_for")
        return twin.encode([payer, gateway, amount, op, valid_before, signature])

    def _sign(self, domain: Domain, record: TypedRecord, label: str) -> bytes:
        return bytes.fromhex(sign_typed(domain, record, self._keyring.private_key(label)))

    def _deadline(self) -> int:
        client = self._contracts.client
        return client.now_s(self._clock()) + client.config.relay_deadline_s


def names_account(function: Function) -> bool:
    """Whether `f` itself takes the account first, so that its twin does not add it."""
    return bool(function.inputs) and function.inputs[0].name == "account"


def typed_act(
    function: Function, values: Sequence[Value], nonce: int, deadline: int
) -> TypedRecord:
    """The EIP-712 struct that an acting account signs.

    It is named like the function, in CamelCase, and holds account, arguments, nonce, deadline.
    An array or a struct stands in it as the keccak of its ABI bytes, under its own name.

    Args:
        function: `f`.
        values: the account, then the other arguments of `f`.
        nonce: how many signed acts of the account the contract has seen.
        deadline: the last second at which it counts.
    """
    account = () if names_account(function) else (_ACCOUNT,)
    solidity: dict[str, str] = {}
    fields: list[Field] = []
    for parameter, value in zip((*account, *function.inputs), values, strict=True):
        if parameter.type.startswith("tuple") or parameter.type.endswith("]"):
            solidity[parameter.name] = "bytes32"
            fields.append(keccak(encode_values([parameter], [value])).hex())
        else:
            solidity[parameter.name] = parameter.type
            fields.append(cast(Field, value))
    solidity |= {"nonce": "uint256", "deadline": "uint256"}
    name = "".join(word.capitalize() for word in function.name.split("_"))
    kind = msgspec.defstruct(
        name,
        [(field, object) for field in solidity],
        bases=(TypedRecord,),
        namespace={"solidity": solidity},
        frozen=True,
    )
    return cast(TypedRecord, kind(*fields, nonce, deadline))
