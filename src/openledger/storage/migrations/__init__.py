"""The history of the schema; `openledger.storage.schema` applies it.

To change the schema, change `tables` and add the next file to `versions`, with its way back; a
released revision never changes. The tests compare where the revisions lead with `tables`, on
SQLite and on PostgreSQL.
"""
