"""Moving a gateway's traffic in tests, as the place's one writer."""

from collections.abc import Collection

from assay.serving import gateway
from assay.settings import Settings

APPROVED = "a" * 64
"""Digest of the artifact that a test's server says it has loaded."""


def set_weights(
    settings: Settings, weights: dict[str, int], approved: Collection[str] = (APPROVED,)
) -> None:
    """Gives each slot its weight, as a writer newer than all before, and lets answers of what is
    `approved` through."""
    writer = gateway.newest_writer(settings) + 1
    gateway.claim(settings, writer)
    gateway.give(settings, weights, approved, writer=writer)
