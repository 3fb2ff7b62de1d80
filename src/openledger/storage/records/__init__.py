"""Typed functions over the tables, one module a noun; each takes the caller's transaction."""
