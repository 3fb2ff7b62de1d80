"""The command line: one file a noun; heavy imports happen inside commands."""
