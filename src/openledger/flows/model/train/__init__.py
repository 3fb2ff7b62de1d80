"""From the contributions of Datanets to a trained adapter with its attribution state."""
