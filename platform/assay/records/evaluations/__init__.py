"""What is on record of evaluations besides the verdict: the answers, comparisons of models, how far
the judge agrees with people, and how often the gate itself is wrong."""
