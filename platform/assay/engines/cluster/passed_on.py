"""What workers are told of this process's environment. Keys and passwords are not: Ray's dashboard
shows it."""

import os
import re
from collections.abc import Mapping

ENDPOINT = "HF_ENDPOINT"
"""A mirror of the Hugging Face hub, such as `https://hf-mirror.com`, for who cannot reach the hub
itself."""

HUBS = (
    ENDPOINT,
    "HF_HUB_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "HF_HUB_ETAG_TIMEOUT",
    "HF_HUB_DOWNLOAD_TIMEOUT",
    "HF_HUB_DISABLE_XET",
)
"""Which hub may be asked, and how. Mirrors that know nothing of Xet storage want
`HF_HUB_DISABLE_XET=1`."""

TRACKERS = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "WANDB_BASE_URL",
    "WANDB_ENTITY",
    "WANDB_MODE",
    "WANDB_PROJECT",
)
"""Where curves go."""


def passed_on(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that workers on any machine get; those with a password in them stay here.
    Proxies are each machine's own affair: a head that is started here inherits this machine's."""
    named = {name: environ[name] for name in (*HUBS, *TRACKERS) if environ.get(name)}
    return {name: value for name, value in named.items() if not re.search(r"//[^/]*@", value)}


def endpoint_fault(environ: Mapping[str, str] = os.environ) -> str:
    """What is wrong with the mirror that is named; empty when nothing is, or none is."""
    said = environ.get(ENDPOINT, "")
    if not said or re.fullmatch(r"https?://[^\s/]+(/\S*)?", said):
        return ""
    return f"{ENDPOINT} is {said!r}; write its whole address, such as https://hf-mirror.com"


def hub_named(environ: Mapping[str, str] = os.environ) -> str:
    """The hub that is asked, for messages on what it did not give."""
    mirror = environ.get(ENDPOINT)
    if mirror:
        return f"the mirror {mirror} (HF_ENDPOINT)"
    return "the Hugging Face hub (HF_ENDPOINT names a mirror of it)"
