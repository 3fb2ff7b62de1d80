"""A Llama for serving: its weights, a paged KV cache, and one step over a mixed batch."""
