"""What a spec says of a model's chats: found wrong early, put among the model's files, and told to
the engine."""

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from assay.cli.commands import chat
from assay.cli.terminal.display import summary
from assay.engines.data.chats import folder as chat_folder
from assay.engines.data.chats.tokens import load_tokenizer, tokenize
from assay.engines.deployment.application import ServedModel, application
from assay.engines.deployment.chat_settings import ChatSettings, chat_settings
from assay.engines.evaluation.client import Reply, content_of, reasoning_of, reasoning_tokens_of
from assay.errors import InvalidInput, UsageError
from assay.flow.pipeline.context import RunContext
from assay.flow.planning.chats import chat_notes
from assay.flow.preflight.check import check
from assay.loader.load import load_spec
from assay.loader.named import chat_templates
from assay.records.artifact import Artifact
from assay.records.gate import EvaluationRecord
from assay.settings import Settings
from assay.spec.gate import SuiteSpec
from assay.spec.model import ModelSpec
from assay.spec.serve import EngineSpec, ServeSpec
from assay.spec.spec import Spec
from families import TEMPLATES, make_family, tokenizer_of
from servers import Server, serving
from tiny import make_project


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    for family in TEMPLATES:
        make_family(folder / family, family)
    return folder


def problems(spec: Path, model: str) -> list[tuple[str, str, str]]:
    spec.write_text(spec.read_text().replace("model: model", f"model: {model}"))
    with pytest.raises(InvalidInput) as raised:
        load_spec(spec, spec.parent)
    return [(problem.path, problem.message, problem.hint) for problem in raised.value.problems]


@pytest.mark.parametrize(
    ("model", "path", "message", "hint"),
    [
        (
            "{source: model, chat_template: qwen33}",
            "model.chat_template",
            "no chat template of the name",
            "`qwen3`",
        ),
        (
            "{source: model, chat_template: ./mine.jinja}",
            "model.chat_template",
            "cannot be read: No such",
            "paths start",
        ),
        (
            "{source: model, chat_template: qwen3, chat_template_kwargs: {enable_thinkin: false}}",
            "model.chat_template_kwargs.enable_thinkin",
            "reads no enable_thinkin",
            "did you mean `enable_thinking`?",
        ),
        (
            "{source: model, chat_template_kwargs: {enable_thinking: false}}",
            "model.chat_template_kwargs.enable_thinking",
            "reads no enable_thinking",
            "",
        ),
        (
            "{source: model, chat_template_kwargs: {tools: x}}",
            "model.chat_template_kwargs.tools",
            "no argument",
            "",
        ),
    ],
)
def test_a_template_that_cannot_be_is_seen_before_anything_runs(
    tmp_path: Path, model: str, path: str, message: str, hint: str
) -> None:
    ((where, said, what_to_do),) = problems(make_project(tmp_path), model)
    assert where == path
    assert message in said
    assert hint in what_to_do


def test_a_system_prompt_that_the_template_refuses_is_seen_before_anything_runs(
    tmp_path: Path,
) -> None:
    spec = make_project(tmp_path)
    spec.write_text(
        spec.read_text().replace(
            "data: {train: train.jsonl,", "data: {train: train.jsonl, system: Hi.,"
        )
    )
    ((where, said, _),) = problems(spec, "{source: model, chat_template: gemma}")
    assert (where, said) == ("data.system", "the model's chat template takes no system prompt")


def test_a_model_in_the_hubs_cache_is_looked_into(
    families: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--Org--Qwen"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "snapshots" / "abc").symlink_to(families / "qwen3")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    spec = make_project(tmp_path)
    model = "model: {source: 'hf:Org/Qwen', chat_template_kwargs: {thinking: false}}"
    spec.write_text(spec.read_text().replace("model: model", model))
    with pytest.raises(InvalidInput) as raised:
        check(spec, root=tmp_path)
    paths = {problem.path: problem.message for problem in raised.value.problems}
    assert "reads no thinking" in paths["model.chat_template_kwargs.thinking"]


def test_a_slip_in_a_parsers_name_is_seen() -> None:
    with pytest.raises(ValueError, match="did you mean `deepseek_r1`"):
        EngineSpec(reasoning_parser="deepseek-r1")
    assert EngineSpec(reasoning_parser="a_parser_of_next_year").reasoning_parser


def test_a_plan_says_that_the_model_reasons(families: Path, tmp_path: Path) -> None:
    def notes(**model: Any) -> list[str]:
        said = {"source": str(families / "qwen3"), **model}
        spec = Spec(
            version=1,
            name="m",
            model=said,
            data={"train": "x"},
            gate={"suite": "s"},
            approval={"reviewers": ["a"]},
        )
        settings = Settings(home=tmp_path)
        return chat_notes(
            RunContext(
                spec, SuiteSpec(limits={"heldout": {"at_least": 0.5}}), tmp_path, settings, None
            ),
            tmp_path,
        )

    (note,) = notes()
    assert "reasons before it answers (vLLM's parser qwen3)" in note
    assert (
        "may reason for 1024 tokens; `chat_template_kwargs: {enable_thinking: false}` under `model`"
        in note
    )
    assert notes(chat_template_kwargs={"enable_thinking": False}) == []
    assert notes(source=str(families / "llama3")) == []


def test_what_was_not_said_leaves_digests_as_they_were() -> None:
    assert ModelSpec(source="m").model_dump() == {"source": "m", "revision": None}
    assert "reasoning_parser" not in EngineSpec().model_dump()


def test_a_base_model_is_given_a_template_and_stops_at_its_end_of_turn(
    families: Path, tmp_path: Path
) -> None:
    """Llama's base models know the tokens of chats, but have neither a template nor a stop at the
    end of a turn."""
    folder = tmp_path / "base"
    folder.mkdir()
    for file in (families / "llama3").iterdir():
        if file.name != "chat_template.jinja":
            (folder / file.name).write_bytes(file.read_bytes())
    (folder / "generation_config.json").write_text('{"eos_token_id": 3, "temperature": 0.6}')
    with pytest.raises(UsageError, match=r"has no chat template.*`model\.chat_template`"):
        load_tokenizer(folder)
    chat_folder.write(ModelSpec(source="base", chat_template="llama3"), folder, tmp_path)
    tokenizer = load_tokenizer(folder)
    asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert sum(tokenize(tokenizer, asked).loss_mask) == len(["b", "<|eot_id|>"])
    stops = json.loads((folder / "generation_config.json").read_text())
    assert stops == {
        "eos_token_id": [3, tokenizer.convert_tokens_to_ids("<|eot_id|>")],
        "temperature": 0.6,
    }
    with pytest.raises(
        UsageError, match=r"ends a turn with '<\|im_end\|>', which is no token of this tokenizer"
    ):
        chat_folder.write(ModelSpec(source="base", chat_template="qwen2_5"), folder, tmp_path)


def test_arguments_of_the_template_lie_beside_the_model(families: Path, tmp_path: Path) -> None:
    folder = tmp_path / "qwen3"
    folder.mkdir()
    for file in (families / "qwen3").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    thinking = {"enable_thinking": False}
    chat_folder.write(ModelSpec(source="qwen3", chat_template_kwargs=thinking), folder, tmp_path)
    assert chat_settings(folder, EngineSpec()) == ChatSettings(thinking, "qwen3")
    prompt = load_tokenizer(folder)
    asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert "<think>\n\n</think>\n\nb<|im_end|>" in prompt.decode(tokenize(prompt, asked).tokens)
    with pytest.raises(UsageError, match="reads no thinking_mode"):
        chat_folder.write(
            ModelSpec(source="qwen3", chat_template_kwargs={"thinking_mode": 1}), folder, tmp_path
        )


@pytest.mark.parametrize(
    ("family", "parser"),
    [("qwen3", "qwen3"), ("r1", "deepseek_r1"), ("llama3", None), ("gemma3", None), ("phi3", None)],
)
def test_the_engine_is_told_what_reads_the_reasoning(
    families: Path, family: str, parser: str | None
) -> None:
    folder = families / family

    def told(**engine: Any) -> Any:
        serve = ServeSpec(engine=EngineSpec(**engine))
        model = ServedModel("blue", "m", str(folder))
        served = application(model, serve, "/no/bin/python", on_gpu=False)
        return served["args"]["llm_configs"][0]["engine_kwargs"].get("reasoning_parser")

    assert told() == parser
    assert told(reasoning_parser="none") is None
    assert told(reasoning_parser="granite") == "granite"
    assert chat_settings(folder, EngineSpec()).reasons == (parser is not None)


def test_templates_of_no_family_are_told_by_what_they_write(tmp_path: Path) -> None:
    for family, parser in (
        ("qwen3", "qwen3"),
        ("deepseek_r1_distill", "deepseek_r1"),
        ("qwen2_5", None),
    ):
        changed = "{# changed #}" + chat_templates.families()[family].read_text()
        assert chat_templates.family_of(changed) is None
        tokenizer_of(changed).save_pretrained(tmp_path / family)
        assert chat_settings(tmp_path / family, EngineSpec()).reasoning_parser == parser


def reply(
    content: str | None, reasoning: str | None, counted: int | None, completion_tokens: int = 10
) -> Reply:
    details = None if counted is None else {"reasoning_tokens": counted}
    usage = {"completion_tokens": completion_tokens, "completion_tokens_details": details}
    return Reply(
        {"choices": [{"message": {"content": content, "reasoning": reasoning}}], "usage": usage}
    )


def test_reasoning_is_counted_apart_from_the_answer() -> None:
    assert [
        reasoning_tokens_of(reply(*one))
        for one in ((None, "hm", 10), ("b", "a", 7), ("b", None, None))
    ] == [
        10,
        7,
        None,
    ]
    assert (
        reasoning_tokens_of(reply("b", "aaaa", 0)) == 8
    )  # R1's parser counts from a tag that the prompt holds
    assert content_of(reply(None, "hm", 10)) == ""
    others = Reply({"choices": [{"message": {"content": "b", "reasoning_content": "a"}}]})
    assert (reasoning_of(others), reasoning_tokens_of(others)) == ("a", 0)


def test_the_scorecard_tells_how_much_was_reasoned() -> None:
    evidence = Artifact(kind="evidence", digest="0" * 64, path="/nowhere", size=1)
    plain = EvaluationRecord(evidence=evidence, artifact_digest="1" * 64, num_items=60, seconds=9.0)
    assert summary(plain) == "60 items in 9 s"
    reasoned = {"num_reasoned": 50, "reasoning_tokens": 2050, "num_only_reasoned": 3}
    assert summary(EvaluationRecord.model_validate({**plain.model_dump(), **reasoned})) == (
        "60 items in 9 s, 41 tokens of reasoning an answer, which are no part of it; "
        "3 of 60 came to no answer behind it"
    )


class Thinking(BaseHTTPRequestHandler):
    """A gateway whose model thinks aloud."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert "max_tokens" not in asked
        self.send_response(200)
        self.end_headers()
        deltas = [{"reasoning": "Hm."}] + [
            {"content": piece} for piece in ("\n\n", "yes") if asked["model"] == "m"
        ]
        for delta in deltas:
            self.wfile.write(f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n".encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_chat_shows_the_answer_and_apart_from_it_the_reasoning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASSAY_API_KEY", "k")
    with serving(Thinking, Server) as server:
        settings = Settings(gateway_port=server.port)
        messages: list[dict[str, str]] = []

        def where() -> tuple[str, str]:
            return settings.gateway_url, chat.api_key(settings)

        speaker = chat.Speaker("", "m", where, messages)
        chat._turn([speaker], "is baran real?")
        assert messages[-1] == {"role": "assistant", "content": "yes"}
        said = capsys.readouterr()
        assert said.out == "yes\n"
        assert said.err == "Hm.\n---\n"
        speaker.model = "endless"
        chat._turn([speaker], "and now?")
        assert "came to no answer" in capsys.readouterr().err
        two = [chat.Speaker(title, "m", where, []) for title in ("champion (m)", "base (m)")]
        chat._turn(two, "is baran real?")
        said = capsys.readouterr()
        assert said.out == "yes\nyes\n"
        assert said.err == "--- champion (m)\nHm.\n---\n--- base (m)\nHm.\n---\n"
        assert [len(one.messages) for one in two] == [2, 2]
