"""Opens what was private of a call: by the payer's key, once its attribution is done."""

from typing import TYPE_CHECKING

from openledger.core.encoding import decode
from openledger.core.errors import ConflictError, NotAllowedError
from openledger.settlement.receipt import Private
from openledger.storage.private.envelope import is_envelope, open_envelope
from openledger.storage.records.data import accounts
from openledger.storage.records.money import calls

if TYPE_CHECKING:
    from openledger.wiring.platform import Platform


def open_private(platform: "Platform", call: calls.Call) -> Private:
    """Prompt, answer and the salts of a call.

    Raises:
        ConflictError: they are erased.
        NotAllowedError: only the payer's key opens them, and it is not in this home.
    """
    if call.private is None:
        raise ConflictError("what was private of this call is erased by now")
    if is_envelope(call.private):
        return decode(open_envelope(payer_key(platform, call), call.id, call.private), Private)
    # Not attributed yet, or by a version that did not hand it over to the payer.
    return decode(platform.sealer.unseal(call.id, call.private), Private)


def payer_key(platform: "Platform", call: calls.Call) -> bytes:
    """The payer's private key, if he is a user of this home.

    Raises:
        NotAllowedError: he is not.
    """
    with platform.database.read() as transaction:
        payer = accounts.by_address(transaction, call.payer)
    if payer is None:
        raise NotAllowedError(
            f"only the key of {call.payer} opens what is private of this call, and it is not here"
        )
    return platform.keyring.private_key(payer.label)
