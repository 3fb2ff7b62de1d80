"""What a checker knows himself: anchors that he read from the chain."""

import msgspec

from openledger.core.encoding import from_wire
from openledger.core.errors import InvalidInputError, VerificationError
from openledger.core.types import Account, Digest, account, digest


class ReleaseAnchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the contract `Models` says of one release and of the run it came from."""

    number: int
    base: Digest
    adapter: Digest
    training_root: Digest
    training_size: int
    method: int
    recipe: Digest  # of the run's whole plan
    manifest_root: Digest
    manifest_size: int
    seed: Digest
    builder: Account | None = None  # who owns the release; None: whom the receipt names is taken


class Anchors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the checker knows from a source of his own."""

    chain_id: int
    escrow: Account
    gateway: Account
    payouts: Account | None = None  # whose address is the commons account
    epoch_root: Digest | None = None
    epoch_first: int | None = None
    epoch_size: int | None = None
    releases: tuple[ReleaseAnchor, ...] = ()  # none: what the receipt says of them is taken

    def release(self, number: int) -> ReleaseAnchor | None:
        """What the chain says of a release; None where no release is anchored.

        Raises:
            VerificationError: other releases are anchored, this one is not.
        """
        if not self.releases:
            return None
        found = next((one for one in self.releases if one.number == number), None)
        if found is None:
            raise VerificationError(f"the anchors know no release {number}; read them again")
        return found


def read_anchors(raw: bytes) -> Anchors:
    """Read an anchors file; addresses as explorers show them, in mixed case, are welcome.

    Raises:
        InvalidInputError: it is not one.
    """
    try:
        read = from_wire(raw, Anchors)
        return msgspec.structs.replace(
            read,
            escrow=account(read.escrow),
            gateway=account(read.gateway),
            payouts=None if read.payouts is None else account(read.payouts),
            epoch_root=None if read.epoch_root is None else digest(read.epoch_root),
        )
    except InvalidInputError as error:
        raise InvalidInputError(f"this is no anchors file: {error}") from error
