"""Steps that look at one row alone."""
