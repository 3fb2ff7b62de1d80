"""What the embedded engine is compared with, each behind one door."""
