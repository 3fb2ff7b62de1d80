"""What a user can have done on a home, by the command line or over its server.

An operation is a function from arguments to a result, both plain records. `cli` runs it in its own
process when no server owns the home, and over loopback when one does.
"""
