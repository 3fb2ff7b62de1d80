"""Several adapters made into one, and what each of them added to it."""
