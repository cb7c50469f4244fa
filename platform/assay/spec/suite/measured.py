"""What a suite limits beside its tasks: the service, contamination, parity."""

from typing import Literal

from pydantic import Field

from assay.spec.block import Block, Duration, Fraction

Level = Literal["hard", "soft"]


class LoadSpec(Block):
    """The load under which the service limits are measured."""

    num_requests: int = Field(200, ge=1)
    """Requests, after a warm-up that is not counted."""

    num_concurrent: int = Field(16, ge=1)
    """Requests in flight."""

    prompt_tokens: int = Field(256, ge=1)
    """Tokens of each prompt, roughly; no two prompts begin alike."""

    output_tokens: int = Field(128, ge=1)
    """Longest answer."""


class ServiceSpec(Block):
    """What the candidate must show as a service, measured by the gate in the slot where it will
    serve."""

    ttft_p50: Duration | None = None
    """Time to first token, median: the upper confidence bound must not exceed this."""

    ttft_p95: Duration | None = None
    """The same, 95th percentile."""

    ttft_p99: Duration | None = None
    """The same, 99th percentile."""

    inter_token_p95: Duration | None = None
    """Time for each token after the first, averaged over a request; 95th percentile over
    requests."""

    output_tokens_per_s: float | None = Field(None, gt=0)
    """Generated tokens a second, for each GPU (for each replica on CPU), at least."""

    error_rate: Fraction | None = None
    """Share of the requests that fail, at most."""

    completion_rate: Fraction | None = None
    """Share of the requests that are answered to their end, at least."""

    peak_memory: Fraction | None = None
    """Share of the memory of the GPU (of the machine, on CPU) that the engine holds at its highest,
    at most."""

    level: Level = "hard"
    """Of all of these limits."""

    load: LoadSpec = LoadSpec()
    """Under which load they are measured."""


class ContaminationSpec(Block):
    """Whether the suite's items stand in the training data."""

    exact: Literal["fail", "list", "ignore"] = "fail"
    """What an item does whose question and answer stand in the training data: `fail` the gate, be
    listed on the scorecard, or nothing."""

    near: Literal["fail", "list", "ignore"] = "list"
    """The same, for an item that the training data holds in a similar wording."""

    ngram: int = Field(13, ge=1)
    """Words in a row that count as a near hit when item and training data share them; where a
    script has no spaces, 1.8 letters count as a word."""

    similarity: Fraction = 0.8
    """Estimated Jaccard similarity (MinHash) from which on two texts are a near hit."""


class ParitySpec(Block):
    """How alike the model must stay from training to serving, on the same probes."""

    top1_agreement: Fraction | None = None
    """Share of the probes' tokens for which both models' likeliest next token is the same, at
    least."""

    logprob_difference: float | None = Field(None, ge=0)
    """Mean absolute difference of the log-probability of the probes' tokens, at most."""

    num_probes: int = Field(32, ge=1)
    """Texts of the selection split that are compared."""

    level: Level = "soft"
    """Of both limits."""
