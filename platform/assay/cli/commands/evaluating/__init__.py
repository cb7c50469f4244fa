"""What `assay gate run` and `assay gate selftest` do."""
