"""The six contracts: their interfaces and bytecode, where they stand, typed reads and writes.

Interfaces and bytecode are package data, compiled from `contracts/*.vy`; no compiler is needed.
"""

from functools import cache
from importlib.resources import files
from typing import Any, Final, TypeVar

import msgspec

from openledger.chain.abi import Argument, Function, Interface, Parameter, Value
from openledger.chain.client import Client, Message, Tag
from openledger.core.errors import NotFoundError, VerificationError
from openledger.core.signing import Domain
from openledger.core.types import ZERO_ACCOUNT, Account, Digest, Wei

# The order of deployment, and with it the nonce of the deployer that makes each.
CONTRACTS: Final = ("OpenToken", "Identity", "Datanets", "Models", "Payouts", "Escrow")
OPERATOR: Final = "operator"  # the label of the key that pays gas

Kind = TypeVar("Kind")


class Artifact(msgspec.Struct, frozen=True):
    """What the compiler made of one contract."""

    abi: list[dict[str, Any]]
    bytecode: str


class ContractSettings(msgspec.Struct, frozen=True):
    """The constructors' arguments that an installation chooses; for ever, once deployed."""

    identity_delay_s: int = 0
    reveal_delay_blocks: int = 1
    reveal_window_s: int = 86_400
    seed_delay_blocks: int = 1
    notice_s: int = 0
    exit_delay_s: int = 0
    payout_delay_s: int = 0


class Deployment(msgspec.Struct, frozen=True):
    """Where the contracts of one home stand."""

    chain_id: int
    genesis: Digest  # tells two chains with one id apart
    block: int  # nothing of ours happened before it
    deployer: Account
    holder: Account  # got all OPEN
    guardian: Account
    settings: ContractSettings
    open_token: Account
    identity: Account
    datanets: Account
    models: Account
    payouts: Account
    escrow: Account

    def address(self, contract: str) -> Account:
        """The address of a contract by its name.

        Raises:
            NotFoundError: there is no such contract.
        """
        if contract not in CONTRACTS:
            raise NotFoundError(
                f"there is no contract {contract}; there are {', '.join(CONTRACTS)}"
            )
        field = "open_token" if contract == "OpenToken" else contract.lower()
        address: Account = getattr(self, field)
        return address

    def addresses(self) -> tuple[Account, ...]:
        """All six, in the order of deployment."""
        return tuple(self.address(contract) for contract in CONTRACTS)


class Write(msgspec.Struct, frozen=True):
    """A transaction to be, as the outbox takes it."""

    what: str  # "Datanets.commit": for people, and for finding the twin of a relayed act
    contract: Account  # ZERO_ACCOUNT: create one
    calldata: bytes
    value: Wei = Wei(0)
    sender: str = OPERATOR  # the label of the key that signs the transaction and pays its gas
    acting: str | None = None  # the label of the key that signs the act, when another one sends it


class Contracts:
    """Reads of the deployed contracts, and writes made ready for the outbox."""

    def __init__(self, client: Client, deployment: Deployment) -> None:
        self.client = client
        self.deployment = deployment
        self._names = {deployment.address(name): name for name in CONTRACTS}

    def call(self, contract: str, function: str, *arguments: Argument) -> Value:
        """Ask a contract; one value comes alone, several as a tuple, structs as tuples.

        Raises:
            ChainRejectedError: the contract refused; the message carries its reason.
            ChainUnavailableError: the chain does not answer.
        """
        return self.call_at("latest", contract, function, *arguments)

    def call_at(self, tag: Tag, contract: str, function: str, *arguments: Argument) -> Value:
        """The same as of a block."""
        found = interface(contract).function(function)
        return found.decode(self._output(tag, contract, found, arguments))

    def read(self, kind: type[Kind], contract: str, function: str, *arguments: Argument) -> Kind:
        """Ask a contract for a value of a type: int, str, bool, or a record.

        A struct fills the record's fields by name, several outputs fill them in order.

        Raises:
            VerificationError: what comes back is no `kind`.
        """
        found = interface(contract).function(function)
        value = found.decode(self._output("latest", contract, found, arguments))
        if len(found.outputs) == 1:
            plain = named(found.outputs[0], value)
        else:  # outputs have no names in Vyper: they fill the record's fields in order
            assert isinstance(value, tuple)
            names = getattr(kind, "__struct_fields__", ())
            plain = dict(zip(names, value, strict=False))
        try:
            return msgspec.convert(plain, kind)
        except msgspec.ValidationError as error:
            raise VerificationError(
                f"{contract}.{function} returned another type: {error}"
            ) from error

    def write(
        self, contract: str, function: str, *arguments: Argument, acting: str = OPERATOR
    ) -> Write:
        """A transaction that calls a contract, paid by the operator.

        Args:
            contract: its name.
            function: its function; `f`, never `f_for`, when somebody else than the operator acts.
            arguments: of `f`.
            acting: the label of the key whose account acts. Unless it is the operator, the
                operator sends the twin `f_for`, with that key's signature made just before.

        Raises:
            InvalidInputError: the function does not take these arguments.
            NotFoundError: there is no such function, or it has no twin.
        """
        found = interface(contract).function(function)
        if acting != OPERATOR:
            interface(contract).function(f"{function}_for")
        return Write(
            what=f"{contract}.{function}",
            contract=self.deployment.address(contract),
            calldata=found.encode(arguments),
            acting=None if acting == OPERATOR else acting,
        )

    def domain(self, contract: str) -> Domain:
        """The EIP-712 domain of a contract."""
        return Domain(self.deployment.chain_id, self.deployment.address(contract))

    def name_of(self, address: Account) -> str | None:
        """Which of the six stands at an address."""
        return self._names.get(address)

    def _output(
        self, tag: Tag, contract: str, function: Function, arguments: tuple[Argument, ...]
    ) -> bytes:
        message = Message(
            sender=ZERO_ACCOUNT,
            contract=self.deployment.address(contract),
            calldata=function.encode(arguments),
        )
        return self.client.call(message, tag)


class EscrowBalance(msgspec.Struct, frozen=True):
    """What `Escrow` keeps of a payer at a gateway: wei that only ever rise."""

    deposited: int
    spent: int
    withdrawn: int


def escrow_balance(contracts: Contracts, payer: Account, gateway: Account) -> EscrowBalance:
    """Ask `Escrow`; free is deposited - spent - withdrawn.

    Raises:
        ChainUnavailableError: the chain does not answer.
    """
    return contracts.read(EscrowBalance, "Escrow", "balance_of", payer, gateway)


@cache
def artifact(contract: str) -> Artifact:
    """The compiled contract of that name.

    Raises:
        NotFoundError: there is none.
    """
    if contract not in CONTRACTS:
        raise NotFoundError(f"there is no contract {contract}; there are {', '.join(CONTRACTS)}")
    path = files("openledger.chain") / "artifacts" / f"{contract}.json"
    return msgspec.json.decode(path.read_bytes(), type=Artifact)


@cache
def interface(contract: str) -> Interface:
    """The functions and events of a contract."""
    return Interface(contract, artifact(contract).abi)


def named(parameter: Parameter, value: Value) -> Any:  # noqa: ANN401 - what msgspec converts
    """A value with the names of its structs' fields."""
    if parameter.type.endswith("]"):
        inner = msgspec.structs.replace(
            parameter, type=parameter.type[: parameter.type.rindex("[")]
        )
        assert isinstance(value, tuple)
        return [named(inner, item) for item in value]
    if parameter.type == "tuple":
        assert isinstance(value, tuple)
        pairs = zip(parameter.components, value, strict=True)
        return {member.name: named(member, item) for member, item in pairs}
    return value
