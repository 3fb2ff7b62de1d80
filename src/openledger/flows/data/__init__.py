"""Use cases of data: fetch, contribute, review."""
