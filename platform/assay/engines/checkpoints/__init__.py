"""Checkpoints: written whole, verified before they are used."""
