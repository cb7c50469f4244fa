"""What the place demands of every spec."""
