"""Bytes at rest: one database, jobs, leases, blobs, the vault and the home folder."""
