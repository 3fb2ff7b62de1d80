"""OpenLedger: data becomes a small language model, and every answer pays the people behind it."""

__version__ = "0.1.0"
