"""The policy of a place: floors that hold for every spec, whatever it says."""

from typing import Literal

from assay.spec.block import Block


class PolicySpec(Block):
    """What a place demands. A place without a policy demands nothing beyond its specs."""

    identity: Literal["local", "tokens"] = "local"
    """`local`: who works is who they say (`--as`, `ASSAY_USER`, their login), and what the machine
    knows of them is kept beside it. `tokens`: a personal token says it."""
