"""OpenLoRA: many adapters over one resident base model, behind one `Engine` protocol."""
