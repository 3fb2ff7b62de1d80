"""Talking to a running server: `core` and the standard library only."""
