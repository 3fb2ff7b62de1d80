"""What lies in a home for somebody in particular, or is opened under a log only."""
