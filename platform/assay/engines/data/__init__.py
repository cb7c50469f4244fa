"""Reading, tokenizing and fetching training data."""
