"""What the contracts said: their events, as far as the chain has not taken them back."""
