"""Tables of people, Datanets and models."""

from sqlalchemy import ForeignKeyConstraint, Index, Table, UniqueConstraint

from openledger.storage.tables.columns import (
    account,
    digest,
    flag,
    identity,
    metadata,
    number,
    raw,
    text,
    wei,
)

accounts = Table(
    "accounts",
    metadata,
    account("address", primary=True),
    identity("label"),
    identity("kind"),  # operator | user | on_behalf
    text("display_name"),
    number("created_at"),
    UniqueConstraint("label"),
)

api_keys = Table(
    "api_keys",
    metadata,
    identity("prefix", primary=True),  # the public part
    digest("hash"),  # sha256 of the whole key
    account("account"),
    text("label"),
    wei("total_cap", required=False),
    wei("daily_cap", required=False),
    number("created_at"),
    number("expires_at", required=False),
    number("revoked_at", required=False),
    UniqueConstraint("hash"),
    ForeignKeyConstraint(["account"], ["accounts.address"]),
    Index(None, "account"),
)

vault_keys = Table(
    "vault_keys",
    metadata,
    identity("id", primary=True),
    raw("wrapped", required=False),  # none once destroyed
    number("created_at"),
    number("destroyed_at", required=False),
)

datanets = Table(
    "datanets",
    metadata,
    identity("id", primary=True),
    account("owner"),
    identity("slug"),
    text("title"),
    raw("rules"),  # canonical bytes; their digest goes on chain
    number("data_floor_bps"),
    number("withdrawal_days"),
    number("number", required=False),  # on chain
    number("created_at"),
    UniqueConstraint("owner", "slug"),
    UniqueConstraint("number"),
)

contributions = Table(
    "contributions",
    metadata,
    identity("id", primary=True),
    identity("datanet"),
    account("contributor"),
    digest("raw_digest"),  # of the raw bytes
    text("source"),  # the file's name, for people
    number("claim"),  # 0 author, 1 licensee, 2 collector
    flag("on_behalf"),
    raw("salt", required=False),  # none once withdrawn: a salt would let guesses be tested
    identity("state"),  # pending | committed | revealed | approved | rejected | withdrawn
    digest("commitment", required=False),
    number("number", required=False),  # on chain
    digest("root", required=False),  # of the chunk digests
    number("size", required=False),  # chunks under the root
    digest("manifest", required=False),  # of its canonical bytes, as on chain
    digest("manifest_blob", required=False),  # of its ciphertext
    text("reason", required=False),  # of a rejection
    number("sequence", required=False),  # of the Datanet, after the last change
    number("created_at"),
    number("updated_at"),
    UniqueConstraint("datanet", "contributor", "raw_digest"),
    UniqueConstraint("commitment"),
    UniqueConstraint("number"),
    ForeignKeyConstraint(["datanet"], ["datanets.id"]),
    Index(None, "contributor"),
)

documents = Table(
    "documents",
    metadata,
    identity("contribution", primary=True),
    number("position", primary=True),
    text("title"),
    text("key"),  # what the held-out split goes by
    text("licence"),
    text("contributor_name"),
    ForeignKeyConstraint(["contribution"], ["contributions.id"]),
)

chunks = Table(
    "chunks",
    metadata,
    identity("contribution", primary=True),
    number("position", primary=True),
    number("document"),
    digest("digest"),  # of the clean text
    number("size_bytes"),
    digest("blob"),  # of the ciphertext
    ForeignKeyConstraint(
        ["contribution", "document"], ["documents.contribution", "documents.position"]
    ),
    Index(None, "digest"),
)

# A row outlives the withdrawal of its contribution, as a tombstone.
duplicate_index = Table(
    "duplicate_index",
    metadata,
    digest("keyed_digest", primary=True),
    identity("contribution"),
    number("document"),
    number("created_at"),
    ForeignKeyConstraint(["contribution"], ["contributions.id"]),
    Index(None, "contribution"),
)

training_runs = Table(
    "training_runs",
    metadata,
    identity("id", primary=True),
    digest("op"),  # the run's operation id on chain
    account("builder"),
    identity("name"),
    identity("state"),  # queued | begun | training | trained | failed | cancelled
    raw("recipe"),
    raw("versions"),  # canonical bytes of the Datanet versions
    digest("manifest_root"),
    number("manifest_size"),
    number("number", required=False),  # on chain
    digest("seed", required=False),
    number("step"),
    number("steps"),
    number("seconds_left", required=False),
    raw("metrics", required=False),
    digest("adapter", required=False),
    text("error", required=False),
    number("created_at"),
    number("updated_at"),
    UniqueConstraint("op"),
    UniqueConstraint("number"),
    Index(None, "builder"),
)

releases = Table(
    "releases",
    metadata,
    identity("id", primary=True),
    identity("owner"),  # owner/name@version
    identity("name"),
    number("version"),
    account("builder"),
    identity("run"),
    digest("base"),
    digest("adapter"),
    digest("training_root"),
    number("training_size"),
    raw("card"),
    text("folder"),
    raw("parents", required=False),
    number("terms_version"),  # in force
    number("number", required=False),  # on chain
    number("created_at"),
    number("deprecated_at", required=False),
    UniqueConstraint("owner", "name", "version"),
    UniqueConstraint("run"),
    UniqueConstraint("number"),
    ForeignKeyConstraint(["run"], ["training_runs.id"]),
)

release_terms = Table(
    "release_terms",
    metadata,
    identity("release", primary=True),
    number("version", primary=True),
    raw("terms"),  # canonical bytes of price and split
    number("effective_at"),
    ForeignKeyConstraint(["release"], ["releases.id"]),
)

# Append-only: who opened what was learned from private texts.
state_openings = Table(
    "state_openings",
    metadata,
    identity("id", primary=True),
    identity("run"),
    account("account"),
    identity("purpose"),  # training | scoring | evidence | bundle | export
    text("subject"),
    number("opened_at"),
    ForeignKeyConstraint(["run"], ["training_runs.id"]),
    Index(None, "run"),
)
