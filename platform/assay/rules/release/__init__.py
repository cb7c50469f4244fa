"""Who may release what, and what a canary must show."""
