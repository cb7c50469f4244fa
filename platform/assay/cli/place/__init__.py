"""Commands of whoever looks after a place: people, policy, keys, proofs."""
