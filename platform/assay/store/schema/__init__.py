"""What the ledger keeps: its tables, their columns, and the rows that are read of them."""
