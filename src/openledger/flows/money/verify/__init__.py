"""Check one receipt alone, to the level that is asked for: without its gateway or its home."""
