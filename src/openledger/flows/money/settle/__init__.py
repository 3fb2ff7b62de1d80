"""Closing epochs: draw what was spent, cover what was not, promise it to those who earned it."""
