"""Rows about training runs and releases."""
