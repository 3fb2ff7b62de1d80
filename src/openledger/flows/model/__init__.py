"""Use cases of models: train, publish."""
