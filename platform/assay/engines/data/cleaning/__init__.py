"""`data.steps`: what is done to training data before they are split, and why each row is there."""
