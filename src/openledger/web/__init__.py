"""The HTTP edge: OpenAI's API, the platform's own, health and metrics; async lives only here."""
