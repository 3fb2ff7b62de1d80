"""What goes to a node and comes back: requests, and answers read strictly."""
