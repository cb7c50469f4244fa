"""Moving a gateway's traffic in tests, as the place's one writer."""

from assay.serving import gateway
from assay.settings import Settings


def set_weights(settings: Settings, weights: dict[str, int]) -> None:
    """Gives each slot its weight, as a writer newer than all before."""
    writer = gateway.newest_writer(settings) + 1
    gateway.claim(settings, writer)
    gateway.set_weights(settings, weights, writer=writer)
