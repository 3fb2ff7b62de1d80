"""Tables of the machinery: jobs, leases, idempotency keys, and all that concerns the chain."""

from sqlalchemy import Index, Table, UniqueConstraint

from openledger.storage.tables.columns import (
    account,
    counter,
    digest,
    identity,
    metadata,
    number,
    raw,
    text,
    wei,
)

jobs = Table(
    "jobs",
    metadata,
    identity("id", primary=True),
    identity("kind"),
    text("key"),  # idempotency key: one job for ever
    raw("payload"),
    identity("state"),  # queued | running | done | dead
    number("run_at"),
    number("lease_until", required=False),
    number("fencing"),
    number("attempt"),
    number("max_attempts"),
    text("error", required=False),
    raw("result", required=False),
    number("created_at"),
    number("updated_at"),
    UniqueConstraint("kind", "key"),
    Index(None, "state", "run_at"),
)

leases = Table(
    "leases",
    metadata,
    identity("name", primary=True),
    identity("owner"),
    number("fencing"),  # rises with every new holder
    number("expires_at"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    identity("scope", primary=True),
    identity("key", primary=True),
    digest("request"),
    raw("response", required=False),  # none while the first request runs
    number("lease_until"),
    number("created_at"),
)

outbox = Table(
    "outbox",
    metadata,
    counter("position"),  # the order of sending
    digest("op_id"),
    account("sender"),
    identity("signer"),  # the label of the sender's key
    identity("acting", required=False),  # the label of the key that signs a relayed act
    account("contract"),
    identity("label"),  # what it does, for people: "Datanets.commit"
    raw("calldata"),
    wei("value"),
    identity("state"),  # queued | signed | mined | final | failed
    number("nonce", required=False),
    raw("raw_tx", required=False),  # signed and stored before it is sent
    raw("tx_hashes", required=False),  # JSON list, the newest last; fee bumps keep the nonce
    digest("tx_hash", required=False),  # the one that was mined
    number("block", required=False),
    number("gas_used", required=False),
    text("error", required=False),
    number("fencing"),
    number("attempt"),
    number("sent_at", required=False),
    number("created_at"),
    number("updated_at"),
    UniqueConstraint("op_id"),
    UniqueConstraint("sender", "nonce"),
    Index(None, "sender", "state"),
)

chain_blocks = Table(
    "chain_blocks",
    metadata,
    number("number", primary=True),
    digest("hash"),
    digest("parent"),
    number("timestamp"),  # the chain's own seconds
    UniqueConstraint("hash"),
)

chain_events = Table(
    "chain_events",
    metadata,
    digest("block_hash", primary=True),
    number("log_index", primary=True),
    number("number"),
    digest("tx_hash"),
    account("contract"),
    identity("event"),
    raw("args"),  # JSON
    Index(None, "contract", "event", "number"),
    Index(None, "number"),
)

chain_cursors = Table(
    "chain_cursors",
    metadata,
    identity("name", primary=True),
    number("number"),
    digest("hash"),
    number("updated_at"),
)
