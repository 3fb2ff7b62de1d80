"""Models of the families Llama, Mistral and Qwen, and how a folder of one becomes a base."""
