"""What happened: one frozen record per kind of fact, each of which the ledger can hold as JSON."""
