"""What the embedded engine is put through, beside the grid of batches."""
