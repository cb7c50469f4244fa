"""Personal data: where they stand, and what is written in their stead."""
