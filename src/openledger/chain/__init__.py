"""The chain as the platform sees it: contracts, reads, the outbox of writes, the event index."""
