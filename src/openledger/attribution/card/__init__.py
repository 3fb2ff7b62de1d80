"""What a release says of its own attribution, measured, and the mode that builds on it."""
