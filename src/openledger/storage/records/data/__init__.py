"""Rows about people and their data."""
