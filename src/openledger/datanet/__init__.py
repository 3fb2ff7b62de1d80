"""A file becomes a contribution: extract, clean, find duplicates, chunk, manifest. No I/O."""
