"""The arithmetic in C: compiled when first needed, called through ctypes."""
