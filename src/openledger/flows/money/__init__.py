"""Use cases of money: a paid call, its attribution, settlement, claims, checks."""
