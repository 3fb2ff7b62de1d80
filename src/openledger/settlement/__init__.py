"""Money rules: pure, integers only; whatever divides, conserves."""
