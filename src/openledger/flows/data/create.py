"""Found a Datanet: its rules, anchored on chain before anyone contributes."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from openledger.chain.acts import Acts
from openledger.chain.outbox.rows import op_id
from openledger.core.encoding import encode
from openledger.datanet.rules import Rules, rules_digest
from openledger.storage.database import Database
from openledger.storage.records.data import datanets
from openledger.storage.records.data.accounts import LocalAccount


@dataclass(frozen=True)
class CreateDatanet:
    """Creating it again finds the same one."""

    database: Database
    acts: Acts
    clock: Callable[[], int]

    def run(self, owner: LocalAccount, title: str, rules: Rules) -> datanets.Datanet:
        """Store the Datanet, anchor it, and note its number on chain.

        Raises:
            InvalidInputError: the rules do not make sense.
            ConflictError: the owner has another Datanet of this name.
        """
        digest = rules_digest(rules)
        new = datanets.NewDatanet(
            owner=owner.address,
            slug=rules.name,
            title=title,
            rules=encode(rules),
            data_floor_bps=rules.data_floor_bps,
            withdrawal_days=rules.withdrawal_days,
        )
        slug = sha256(rules.name.encode()).hexdigest()
        op = op_id("datanet", owner.address, rules.name)
        write = self.acts.contracts.write(
            "Datanets",
            "create",
            slug,
            digest,
            rules.data_floor_bps,
            rules.withdrawal_days,
            acting=owner.label,
        )
        with self.database.transaction() as transaction:
            stored = datanets.create(transaction, new, self.clock())
            if stored.number is not None:
                return stored
            self.acts.queue(transaction, op, write)
        self.acts.confirm([op])
        number = self.acts.contracts.read(int, "Datanets", "id_of", owner.address, slug)
        with self.database.transaction() as transaction:
            datanets.set_number(transaction, stored.id, number)
            return datanets.get(transaction, stored.id)
