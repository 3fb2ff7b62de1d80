"""The language model itself: base, tokenizer, LoRA adapters and their checkpoints; needs torch."""
