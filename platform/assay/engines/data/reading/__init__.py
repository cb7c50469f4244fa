"""Files of training examples of every form, read line by line or row by row."""
