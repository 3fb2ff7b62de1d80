"""Talking to a running server: `core` and httpx only."""
