"""The demonstration's API key: the same one at every telling.

It is derived from the home's seed, so a demonstration that is killed or told again leaves no live
key behind that nobody knows.
"""

from hashlib import sha256
from itertools import count

from openledger.core.types import Account
from openledger.storage.records.data import accounts
from openledger.wiring.platform import Platform, now_us

_LABEL = "demo"
_LENGTH = 40


def demo_key(platform: Platform, payer: Account) -> str:
    """The key, made at the first time; the next one when somebody revoked it."""
    with platform.database.transaction() as transaction:
        known = {key.hash: key for key in accounts.keys_of(transaction, payer)}
        for number in count(1):
            secret = _secret(platform, number)
            key = accounts.api_key(secret, payer, _LABEL, now_us())
            if key.hash not in known:
                accounts.add_key(transaction, key)
                return secret
            if known[key.hash].revoked_at is None:
                return secret
    raise AssertionError("count never ends")


def _secret(platform: Platform, number: int) -> str:
    seed = platform.keyring.private_key(f"api-key/{_LABEL}/{number}")
    return "sk-ol-" + sha256(seed).hexdigest()[:_LENGTH]
