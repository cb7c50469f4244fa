"""Examples that are made of others, and what keeps the bad ones out."""
