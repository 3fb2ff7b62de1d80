"""Public corpora that ship inside packages, read as archives, contributor by contributor."""
