"""Approvals and traffic."""
