"""Who is served next, with which memory, and how far each request has come."""
