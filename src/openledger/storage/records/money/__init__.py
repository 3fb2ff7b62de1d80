"""Rows about balances, calls and payouts."""
