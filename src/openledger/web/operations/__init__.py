"""How each operation of `openledger.operations` is done.

By a function from a platform and arguments to a result, both plain records. `cli` runs it in its
own process when no server owns the home, and over loopback when one does.
"""
