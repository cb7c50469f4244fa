"""Releases: words, traffic, receipts, the audit's events, ids of runs."""
