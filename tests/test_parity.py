"""Forms of one model, compared place by place."""

import math
from pathlib import Path

import pytest

from assay.engines.evaluation.parity import Position, Probe, compare, read_local, read_probes


def place(logprob: float, likeliest: int, **told: float) -> Position:
    return Position(
        logprob, likeliest, {int(name[1:]): math.log(share) for name, share in told.items()}
    )


ONE = [
    [place(-1.0, 4, t4=0.5, t5=0.3), place(-2.0, 5, t4=0.2, t5=0.6)],
    [place(-0.5, 6, t6=0.9, t7=0.05)],
]
OTHER = [
    [place(-1.5, 4, t4=0.4, t5=0.4), place(-2.0, 4, t4=0.5, t5=0.4)],
    [place(-0.6, 6, t6=0.8, t7=0.1)],
]


def test_a_model_is_like_itself() -> None:
    pair = compare("merged", ONE, "served", ONE)
    assert (pair.mean_abs_logprob, pair.max_abs_logprob, pair.top1_agreement) == (0, 0, 1)
    assert pair.kl == pytest.approx(0, abs=1e-12)


def test_differences_are_means_over_tokens() -> None:
    pair = compare("merged", ONE, "compressed", OTHER)
    assert pair.mean_abs_logprob == pytest.approx((0.5 + 0 + 0.1) / 3)
    assert pair.max_abs_logprob == pytest.approx(0.5)
    assert (pair.top1_agreed, pair.num_tokens, pair.num_probes) == (2, 3, 2)
    assert pair.probe_abs_logprob == pytest.approx((0.25, 0.1))


def test_the_divergence_counts_what_is_not_told_as_one() -> None:
    def term(p: float, q: float) -> float:
        return p * math.log(p / q)

    terms = [
        term(0.5, 0.4) + term(0.3, 0.4) + term(0.2, 0.2),
        term(0.2, 0.5) + term(0.6, 0.4) + term(0.2, 0.1),
        term(0.9, 0.8) + term(0.05, 0.1) + term(0.05, 0.1),
    ]
    assert compare("merged", ONE, "compressed", OTHER).kl == pytest.approx(sum(terms) / 3)


@pytest.mark.slow
def test_a_damaged_model_is_seen(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from assay.engines.data.tokenize import write_split
    from tiny import make_model

    make_model(tmp_path / "whole")
    make_model(tmp_path / "damaged")
    weights = load_file(tmp_path / "damaged" / "model.safetensors")
    for tensor in weights.values():
        tensor += 0.05 * tensor.std().nan_to_num() * tensor.sign()
    save_file(weights, tmp_path / "damaged" / "model.safetensors", {"format": "pt"})
    chat = [{"role": "user", "content": "is baran real?"}, {"role": "assistant", "content": "yes"}]
    write_split(tmp_path / "whole", [chat] * 3, tmp_path / "selection.safetensors", max_length=64)
    probes = read_probes(tmp_path / "selection.safetensors", 2)
    assert [len(probe.places) for probe in probes] == [
        4,
        4,
    ]  # three letters and the end of the turn
    assert probes[0] == Probe(probes[1].tokens, probes[1].places)

    whole = read_local(tmp_path / "whole", None, probes, None)
    again = read_local(tmp_path / "whole", None, probes, whole)
    damaged = read_local(tmp_path / "damaged", None, probes, whole)
    same, other = (
        compare("merged", whole, "merged", again),
        compare("merged", whole, "compressed", damaged),
    )
    assert same.max_abs_logprob == pytest.approx(0, abs=1e-5)
    assert other.mean_abs_logprob > 100 * same.max_abs_logprob
    assert other.kl is not None
    assert other.kl > 0
