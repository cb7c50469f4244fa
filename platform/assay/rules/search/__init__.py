"""How a sweep goes on."""
