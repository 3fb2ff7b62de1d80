"""The history of the schema; `openledger.storage.schema` applies it."""
