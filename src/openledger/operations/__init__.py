"""What a user can have done on a home: the name, arguments and result of each operation.

Records alone, so that a command which asks a running server loads nothing else. How each is done
stands in `openledger.web.operations`.
"""
