"""Products of rows with a base model's matrices, by the library or kernel that makes them."""
