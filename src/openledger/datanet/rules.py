"""The rules of a Datanet: what it takes, under which licences, and what its data earns.

Their digest is anchored on chain when the Datanet is created; they never change under those who
contributed.
"""

import re
from enum import StrEnum

import msgspec

from openledger.core.encoding import digest_of
from openledger.core.errors import InvalidInputError, NotAllowedError
from openledger.core.types import BASIS_POINTS, Digest

LARGEST_DESCRIPTION_CHARACTERS = 2_000


class Withdrawal(StrEnum):
    """What happens to running releases when a contributor withdraws."""

    STOP_SERVING = "running releases trained on it end within the days given"
    KEEP_SERVING = "running releases may go on; the share goes to the commons"


class Rules(msgspec.Struct, frozen=True):
    """A Datanet's rules, version 1."""

    name: str  # lower case, digits and dashes: folk-music
    description: str
    licences: tuple[str, ...]  # SPDX ids, or LicenseRef-... for a named licence
    withdrawal: Withdrawal = Withdrawal.STOP_SERVING
    withdrawal_days: int = 90
    data_floor_bps: int = 3_000  # the least part of each fee for data, in basis points
    version: int = 1


def rules_digest(rules: Rules) -> Digest:
    """The digest that is anchored on chain.

    Raises:
        InvalidInputError: the rules do not make sense.
    """
    check_rules(rules)
    return digest_of(rules)


def check_rules(rules: Rules) -> None:
    """Check that the rules make sense.

    Raises:
        InvalidInputError: a field is missing or outside its range.
    """
    if not _NAME.fullmatch(rules.name):
        raise InvalidInputError(
            f"{rules.name!r} is no Datanet name: take 1 to 31 lower-case letters, digits, dashes"
        )
    if not 0 < len(rules.description.strip()) <= LARGEST_DESCRIPTION_CHARACTERS:
        raise InvalidInputError(
            f"a Datanet needs a description of at most {LARGEST_DESCRIPTION_CHARACTERS} characters"
        )
    wrong = [licence for licence in rules.licences if not _LICENCE.fullmatch(licence)]
    if wrong or not rules.licences:
        raise InvalidInputError(f"list SPDX ids or LicenseRef-names as licences, not {wrong}")
    if rules.withdrawal_days < 0 or not 0 <= rules.data_floor_bps <= BASIS_POINTS:
        raise InvalidInputError(
            "withdrawal days must not be negative, and the data floor lies in 0 to 10000"
        )


def check_licence(rules: Rules, licence: str) -> None:
    """Check a document's licence: of an OR any part, of an AND every part must be allowed.

    Raises:
        NotAllowedError: it is not on the list, or the document has none.
    """
    choices = licence.split(" OR ")
    if not any(_allows(rules, choice) for choice in choices):
        raise NotAllowedError(
            f"{rules.name} takes {', '.join(rules.licences)}, not {licence or 'no licence'}"
        )


_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,29}[a-z0-9])?")
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,79}")


def _allows(rules: Rules, expression: str) -> bool:
    return all(part.strip("() ") in rules.licences for part in expression.split(" AND "))
