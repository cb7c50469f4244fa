"""What a run would do, before anything runs."""
