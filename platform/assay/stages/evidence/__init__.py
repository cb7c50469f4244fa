"""Stages whose records the verdict rests on besides the answers: what training has seen of the
questions, whether the served model is the trained one, how it bears load."""
