"""What somebody can do to be paid for more than his data did, and what it brings him."""
