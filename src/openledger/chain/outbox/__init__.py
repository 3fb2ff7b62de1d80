"""Writes to the chain, exactly once: queued beside the business change, sent by one sender."""
