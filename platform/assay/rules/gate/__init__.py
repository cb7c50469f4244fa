"""What a gate decides."""
