"""Text as such: its encoding and its titles."""
