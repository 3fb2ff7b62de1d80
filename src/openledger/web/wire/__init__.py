"""OpenAI's wire format, both ways."""
