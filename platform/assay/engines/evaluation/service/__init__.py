"""A served model under load: what it answers in which time, and what memory its engine takes."""
