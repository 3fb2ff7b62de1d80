"""Bring files into a Datanet."""
