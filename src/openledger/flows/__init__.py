"""One use case a file; a flow owns the order of effects. Flows do not call each other."""
