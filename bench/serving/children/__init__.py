"""What runs in a peer's own Python; it has the standard library and that peer, nothing of ours."""
