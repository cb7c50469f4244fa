"""The place's policy: floors that no spec lowers, at every point where they could be got around."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assay.errors import ExitCode, InvalidInput, NotApproved, UsageError
from assay.flow.pipeline.run import _check_policy
from assay.flow.place.book import place_keys
from assay.flow.place.known import KnownPlace
from assay.flow.place.policy import current_policy, set_policy
from assay.flow.preflight.check import check
from assay.flow.release.operations import ReviewerWord, record_decision, rollback_run
from assay.flow.release.receipts import receipt_store, verify_folder
from assay.records.gate import LimitResult, Scorecard
from assay.rules.release.policy import scorecard_faults, spec_faults, strict_approval
from assay.spec.approval import ApprovalSpec
from assay.spec.place.policy import PolicySpec
from assay.spec.spec import Spec
from office import SUITE, TO_BLUE, TO_GREEN, TO_NOBODY, Office, beside, office, refused, running  # noqa: F401

LONG = "40000d"  # the candidates of tests/office.py were deployed in 1970


@pytest.fixture
def demand(office: Office, tmp_path: Path) -> Callable[[str], PolicySpec]:
    """Makes a text the place's policy."""

    def demanded(text: str) -> PolicySpec:
        file = tmp_path / "policy.yaml"
        file.write_text(f"{text}\n")
        return set_policy(office.settings, file)

    return demanded


Demand = Callable[[str], PolicySpec]


def test_a_release_that_is_up_to_all_of_it_goes_through(office: Office, demand: Demand) -> None:
    demand(
        f"""
reviewers: [ANNA, carol]
allow_self_approval: false
required: 1
two_persons: [soft_miss]
suites: [./evals/suite.yaml]
limits: {{facts: [{{metric: exact_match, at_least: 40%}}]}}
max_age: {{evaluation: {LONG}, approval: 1h}}
models: ["hf:some/*"]
env: []
"""
    )
    run = office.evaluated("bot", "blue")
    office.approve(run)
    office.promote(run)
    assert office.weights() == TO_BLUE
    release = verify_folder(
        receipt_store(office.settings).folder / run, place_keys(office.settings).public_files()
    )
    assert release.run == run
    predicates = [
        json.loads(office.command("verify", str(file), "--json").stdout)["predicate"]
        for file in (receipt_store(office.settings).folder / run).glob("evaluation-*")
    ]
    assert any(one["approval"]["reviewers"] == ["anna"] for one in predicates)
    assert any(one["approval"]["expires"] == 3600.0 for one in predicates)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("suites: [evals/safety.yaml]", "asks for the suite evals/safety.yaml"),
        ("limits: {facts: {metric: exact_match, at_least: 60%}}", "facts: .*at_least: 0.6"),
        ("limits: {facts: {metric: rougeL, at_least: 10%}}", "facts: .*metric: rougeL"),
        ("limits: {facts: {metric: exact_match, at_most: 90%}}", "facts: .*at_most: 0.9"),
        ("limits: {harm: {metric: exact_match, at_least: 10%}}", "harm: .*at_least: 0.1"),
        (
            "limits: {facts: {metric: exact_match, at_least: 10%, digest: abc}}",
            "task facts is not the one that the policy asks for",
        ),
        ("models: ['hf:Qwen/*', 'models/*']", "allows models from hf:Qwen"),
        ("reviewers: [carol]", "asks for 1 reviewers out of carol, and this names 0"),
        ("required: 3", "asks for 3 reviewers, and this names 2"),
    ],
)
def test_what_the_policy_forbids_is_neither_approved_nor_promoted(
    office: Office, demand: Demand, text: str, said: str
) -> None:
    run = office.evaluated("bot", "blue")
    other = office.evaluated("other", "green")
    office.approve(run)  # before the policy was set: it counts no more
    demand(
        text.replace(": {metric", ": [{metric").replace("%}}", "%}]}").replace("abc}}", "abc}]}")
    )
    refused(office, run, NotApproved, said)
    with pytest.raises(NotApproved, match=said):
        office.approve(other)
    assert office.ledger.approvals(other) == []


def test_an_evaluation_that_is_too_old_is_not_promoted(office: Office, demand: Demand) -> None:
    run = office.evaluated("bot", "blue")
    office.approve(run)
    demand("max_age: {evaluation: 7d}")
    refused(office, run, NotApproved, "was evaluated too long ago")


def test_an_approval_that_is_too_old_does_not_count(office: Office, demand: Demand) -> None:
    run = office.evaluated("bot", "blue")
    office.approve(run)
    (word,) = office.ledger.approvals(run)
    office.ledger.audit.keys = place_keys(office.settings)
    office.ledger.add_approval(word.model_copy(update={"given_at": time.time() - 7200}))
    demand("max_age: {approval: 1h}")
    refused(office, run, NotApproved, "it expired 1.0 hours ago.*place's policy")
    demand("max_age: {approval: 3h}")
    office.promote(run)


def test_a_spec_does_not_allow_its_author_what_the_place_does_not(
    office: Office, demand: Demand
) -> None:
    said = office.spec("lax").model_dump(mode="json")
    said["approval"] |= {"allow_self_approval": True, "reviewers": ["Ben", "anna"]}
    office.evaluated("lax", "blue", spec=Spec.model_validate(said))
    office.approve("lax-1a2b3c", "ben")
    demand("allow_self_approval: false")
    refused(office, "lax-1a2b3c", NotApproved, "allows no self-approval")
    for name in ("ben", "BEN", "\uff42\uff45\uff4e"):  # the last in full-width letters
        with pytest.raises(NotApproved, match="no self-approval"):
            office.approve("lax-1a2b3c", name)


def test_two_persons_for_the_first_release(office: Office, demand: Demand) -> None:
    demand("two_persons: [first_release]")
    run = office.evaluated("bot", "blue")
    office.ledger.open_run(run, name="bot", spec=office.ledger.find_run(run).spec, started_by="zoe")
    office.approve(run, "anna")
    refused(office, run, NotApproved, "has 1 of the 2 approvals needed.*place's policy")
    office.approve(run, "ANNA")  # the same person
    refused(office, run, NotApproved, "has 1 of the 2 approvals needed")


def test_the_policy_of_each_step_counts(office: Office, demand: Demand) -> None:
    """One that is set while a canary is held ends the promotion at its next step."""
    run = office.evaluated("careful", "blue")
    champion = office.evaluated("bot", "green")
    office.approve(champion)
    office.promote(champion)
    office.approve(run)

    def tighten(stop: Any) -> None:
        while office.weights() == TO_GREEN and not stop.is_set():
            stop.wait(0.02)
        demand("models: ['hf:other/*']")

    with beside(tighten), pytest.raises(NotApproved, match="allows models from hf:other"):
        office.promote(run)
    assert office.weights() == TO_GREEN
    (last,) = office.ledger.releases.all()[-1:]
    assert (last.state, last.step) == ("rolled_back", 1)


def test_a_rejection_by_whom_the_spec_names_counts_whatever_the_policy_says(
    office: Office, demand: Demand
) -> None:
    run = office.evaluated("bot", "blue")
    office.approve(run)
    demand("reviewers: [anna]")
    record_decision(run, ReviewerWord("reject", "ben", "it lies"), settings=office.settings)
    refused(office, run, NotApproved, "was rejected by ben: it lies")


def test_the_way_back_stays_open(office: Office, demand: Demand) -> None:
    """A stricter policy does not keep users on what is broken."""
    for name, slot in (("first", "blue"), ("second", "green")):
        run = office.evaluated(name, slot)  # type: ignore[arg-type]
        office.approve(run)
        office.promote(run)
    demand("max_age: {evaluation: 1h, approval: 0s}")
    rollback_run(settings=office.settings, reason="it rhymes")
    assert office.weights() == TO_BLUE


# -- before anything is started --------------------------------------------------------------------


def spec_of(**blocks: Any) -> Spec:
    said = {
        "version": 1,
        "name": "bot",
        "model": "hf:some/model",
        "data": {"train": "train.jsonl"},
        "gate": {"suite": "evals/suite.yaml"},
        "approval": {"reviewers": ["anna", "ben"]},
    }
    return Spec.model_validate(said | blocks)


@pytest.mark.parametrize(
    ("source", "is_allowed"),
    [
        ("models/tiny", True),
        ("models/../elsewhere", False),
        ("/models/tiny", False),
        ("hf:Qwen/Qwen3-8B@main", True),
        ("hf:qwen/Qwen3-8B", False),
        ("package:some/../../x", False),
    ],
)
def test_where_a_model_may_come_from(source: str, is_allowed: bool) -> None:
    policy = PolicySpec.model_validate({"models": ["models/*", "hf:Qwen/*", "package:some/*"]})
    found = list(spec_faults(policy, spec_of(model=source), []))
    assert (found == []) is is_allowed
    assert is_allowed or found[0].location == ("model", "source")


def test_a_teacher_is_a_model_too() -> None:
    policy = PolicySpec.model_validate({"models": ["hf:some/*"]})
    train = {"objective": {"distill": {"teacher": "hf:another/model"}}}
    (found,) = spec_faults(policy, spec_of(train=train), [])
    assert found.location[0] == "train"
    assert found.location[-2:] == ("teacher", "source")


def test_names_of_variables() -> None:
    policy = PolicySpec.model_validate({"env": ["DATA_*"]})
    assert list(spec_faults(policy, spec_of(), ["DATA_ROOT"])) == []
    assert ["HF_TOKEN" in one.message for one in spec_faults(policy, spec_of(), ["HF_TOKEN"])] == [
        True
    ]


def test_a_run_is_refused_whoever_has_checked_its_spec() -> None:
    policy = PolicySpec.model_validate({"models": ["hf:other/*"]})
    with pytest.raises(UsageError, match="allows models from hf:other"):
        _check_policy(policy, spec_of(), SUITE)


def test_a_limit_that_only_looks_like_the_one_that_is_asked_for_does_not_count() -> None:
    policy = PolicySpec.model_validate(
        {"limits": {"facts": [{"metric": "exact_match", "at_least": 0.5}]}}
    )
    genuine = LimitResult(
        task="facts",
        metric="exact_match",
        requirement=">= 50.0%",
        level="hard",
        outcome="PASS",
        num_items=60,
        observed=1.0,
        bound=0.9,
        limit=0.5,
        base_observed=None,
        reason="",
    )
    scorecard = Scorecard(
        suite="s",
        suite_digest="s",
        artifact_digest="a",
        base_digest=None,
        confidence=0.95,
        outcome="PASS",
        limits=(genuine,),
        deployment_slot="blue",
        deployed_at=1.0,
        replicas=("r",),
    )
    assert list(scorecard_faults(policy, scorecard)) == []
    for change in (
        {"limit": 0.49},
        {"level": "soft"},
        {"outcome": "INCONCLUSIVE"},
        {"reference": "base"},
        {"family": "any"},
        {"requirement": "<= 50.0%"},
        {"kind": "service"},
        {"metric": "rougeL"},
        {"task": "facts2"},
    ):
        other = scorecard.model_copy(update={"limits": (genuine.model_copy(update=change),)})
        assert list(scorecard_faults(policy, other)), change


def test_strictness_only_grows() -> None:
    lax = ApprovalSpec.model_validate(
        {
            "reviewers": ["Anna", "ben"],
            "allow_self_approval": True,
            "required_on_soft_miss": 1,
            "expires": "30d",
        }
    )
    strict = ApprovalSpec.model_validate({"reviewers": ["anna", "ben"], "required": 2})
    nothing = PolicySpec()
    for said in (lax, strict):
        assert strict_approval(nothing, said, is_first=True) == said
    policy = PolicySpec.model_validate(
        {
            "reviewers": ["ANNA", "Carol"],
            "allow_self_approval": False,
            "two_persons": ["soft_miss", "first_release"],
            "max_age": {"approval": "1d"},
        }
    )
    found = strict_approval(policy, lax, is_first=False)
    assert (found.reviewers, found.required, found.required_on_soft_miss) == (("Anna",), 1, 2)
    assert (found.allow_self_approval, found.expires) == (False, 86400.0)
    assert strict_approval(policy, lax, is_first=True).required == 2
    assert strict_approval(policy, strict, is_first=False).required == 2


def test_validate_and_plan_say_what_the_policy_forbids_and_where(
    office: Office, demand: Demand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demand("models: ['hf:other/*']\nrequired: 3\nsuites: [evals/safety.yaml]")
    monkeypatch.chdir(Path(__file__).parents[1])
    place = KnownPlace("ben", current_policy(office.settings))
    spec = Path("specs/country-facts.yaml")
    with pytest.raises(InvalidInput) as error:
        check(spec, root=Path(), place=place, reads_data=False)
    found = {(problem.path, problem.code) for problem in error.value.problems}
    assert {("model.source", "policy"), ("approval.reviewers", "policy")} <= found
    assert all(problem.line for problem in error.value.problems)
    done = office.command("validate", str(spec))
    assert done.returncode == ExitCode.USAGE
    assert "allows models from hf:other/* alone" in done.stderr


def test_the_example_in_the_documents_is_a_policy(office: Office, demand: Demand) -> None:
    text = (Path(__file__).parents[1] / "platform" / "operations.md").read_text()
    example = text.split("```yaml\nidentity: local")[1].split("```")[0]
    policy = demand(f"identity: local{example}")
    assert set(type(policy).model_fields) == policy.model_fields_set


def test_a_policy_that_contradicts_itself_is_not_set(office: Office, demand: Demand) -> None:
    for text in (
        "reviewers: [anna]\nrequired: 2",
        "reviewers: [anna, ANNA]\ntwo_persons: [soft_miss]",
        "limits: {facts: [{metric: exact_match}]}",
        "requird: 2",
    ):
        with pytest.raises(InvalidInput, match=r"policy\.yaml"):
            demand(text)
    assert current_policy(office.settings) == PolicySpec()
    assert office.weights() == TO_NOBODY
