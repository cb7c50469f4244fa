"""What two specs say differently, by meaning."""

from assay.loader.diff import Change, differences
from assay.spec.spec import Spec

SPEC = {"version": 1, "name": "bot", "model": "hf:a/b", "data": {"train": "x"}}
SPEC |= {"gate": {"suite": "s.yaml"}, "approval": {"reviewers": ["ana"]}}


def spec(**said: object) -> Spec:
    return Spec.model_validate({**SPEC, **said})


def test_what_means_the_same_is_no_difference() -> None:
    long = spec(
        data={"train": ["x"], "selection": "5%"}, train={"method": {"lora": {"r": 16}}}, sweep=None
    )
    assert differences(spec(), long) == []


def test_every_changed_path_is_one_change() -> None:
    sweep = {"learning_rate": [1e-4, 1e-3]}
    changes = differences(
        spec(), spec(name="bee", train={"method": {"lora": {"r": 8}}, "seed": 1}, sweep=sweep)
    )
    assert [change.path for change in changes] == [
        "name",
        "sweep",
        "train.method.lora.r",
        "train.seed",
    ]
    assert changes[0] == Change("name", "bot", "bee")
    assert changes[1].old is None
    assert isinstance(changes[1].new, dict)
    assert changes[1].new["learning_rate"] == [1e-4, 1e-3]
    assert changes[2:] == [Change("train.method.lora.r", 16, 8), Change("train.seed", 0, 1)]


def test_lists_are_compared_whole() -> None:
    (change,) = differences(spec(), spec(approval={"reviewers": ["ana", "ben"]}))
    assert change == Change("approval.reviewers", ["ana"], ["ana", "ben"])
