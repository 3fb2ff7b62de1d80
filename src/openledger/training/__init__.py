"""Fine-tune an adapter on a Datanet's chunks and measure what it gained."""
