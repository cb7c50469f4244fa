"""Who acts at a place, and what its policy demands of everybody."""
