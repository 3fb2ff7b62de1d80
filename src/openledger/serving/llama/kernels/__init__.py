"""What a step does besides its matrix products: in C, or in torch."""
