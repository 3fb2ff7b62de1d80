"""The embedded development chain: py-evm over SQLite, and anvil when it is asked for."""
