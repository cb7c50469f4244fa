"""The ledger (SQL) and the artifact store (content-addressed folders)."""
