"""Loss masks of every text template that TRL ships, and what is refused."""

from typing import Any, NamedTuple

import pytest

from assay.engines.data.chats.masks import answer_start, end_of_turn, marked
from assay.engines.data.chats.templates import chat_format, render
from assay.engines.data.chats.tokens import format_of, tokenize
from assay.errors import UsageError
from assay.loader.named import chat_templates
from families import KINDS, tokenizer_of


class Family(NamedTuple):
    """What a server's model has to write around the words of an answer."""

    end: str
    before: str = ""
    earlier_end: str | None = None
    """Of a turn that is not the last, where that is another."""


CHATML = Family("<|im_end|>")
GEMMA = Family("<end_of_turn>")
GEMMA4 = Family("<turn|>")
DEEPSEEK = Family("<｜end▁of▁sentence｜>")
LLAMA = Family("<|eot_id|>")
FAMILIES = {
    "cohere": Family("<|END_OF_TURN_TOKEN|>"),
    "cohere2": Family("<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"),
    "deepseek_r1_distill": DEEPSEEK,
    "deepseekv3": DEEPSEEK,
    "diffusion_gemma": GEMMA4,
    "gemma": GEMMA,
    "gemma3": GEMMA,
    **dict.fromkeys(("gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5"), GEMMA4),
    "glm4moe": Family("<|user|>"),
    "gptoss": Family("<|return|>", before="<|channel|>final<|message|>", earlier_end=""),
    **dict.fromkeys(("lfm2", "lfm2_v2", "lfm2_2_5", "lfm2_2_5_v2", "lfm2_2_5_vl"), CHATML),
    **dict.fromkeys(("llama3", "llama3_1", "llama3_2"), LLAMA),
    "muse_glimmer": Family("<|eot|>", before=" to=user<|message|>"),
    **dict.fromkeys(
        ("nemotron_3_5_lightning", "nemotron_3_nano", "nemotron_3_super", "nemotron_3_ultra"),
        CHATML,
    ),
    **dict.fromkeys(("phi3", "phi3_5"), Family("<|end|>")),
    **dict.fromkeys(("qwen2_5", "qwen2_5_vl", "qwen3", "qwen3_instruct_2507", "qwen3_vl"), CHATML),
    **dict.fromkeys(("qwen3_5_nothink", "qwen3_5_think", "qwen3_6", "qwen3_8"), CHATML),
}
"""Written down by hand from the models' own documents, and not from the templates' marks."""
FOR_IMAGES = {"idefics3", "llava_next", "smolvlm"}
"""Their templates write no message whose content is plain text."""
NO_SYSTEM = {"gemma", "phi3"}
WITHOUT_THINKING = {
    "qwen3",
    "qwen3_5_nothink",
    "qwen3_5_think",
    "qwen3_6",
    "qwen3_8",
    "nemotron_3_nano",
    "glm4moe",
}


def templates_of(family: str) -> list[str]:
    """The template that serves, and TRL's twin for training."""
    twin = chat_templates.training_twin(family)
    return [file.read_text() for file in (chat_templates.families()[family], twin) if file]


def learned(tokenizer: Any, chat: list[dict[str, str]], **kwargs: Any) -> str:
    """The text of the tokens that bear loss."""
    example = tokenize(tokenizer, chat, **kwargs)
    return str(
        tokenizer.decode(
            [t for t, bit in zip(example.tokens, example.loss_mask, strict=True) if bit]
        )
    )


def chat(*turns: str, system: str = "") -> list[dict[str, str]]:
    first = [{"role": "system", "content": system}] if system else []
    return first + [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)
    ]


CASES = [(family, twin) for family in FAMILIES for twin in range(len(templates_of(family)))]


def test_no_template_of_trls_is_left_out() -> None:
    assert set(FAMILIES) | FOR_IMAGES == set(chat_templates.families())


@pytest.mark.parametrize(("family", "twin"), CASES)
def test_the_masked_tokens_are_exactly_the_assistants(family: str, twin: int) -> None:
    """With words that also stand in headers and end tokens, and with several scripts."""
    tokenizer = tokenizer_of(templates_of(family)[twin])
    end, before, earlier = FAMILIES[family]
    earlier = end if earlier is None else earlier
    for one, two in (
        ("Paris.", "I don't know."),
        ("final", "end"),
        ("a\n\nb: <b>", "|"),
        ("是的。", "ja 🙂"),
    ):
        assert learned(tokenizer, chat("Q1", one)) == f"{before}{one}{end}"
        several = chat("Q1", one, "Q2", two)
        assert learned(tokenizer, several) == f"{before}{one}{earlier}{before}{two}{end}"
        assert learned(tokenizer, several, last_turn_only=True) == f"{before}{two}{end}"
        if family not in NO_SYSTEM:
            with_system = chat("Q1", one, "Q2", two, system="Be brief.")
            assert learned(tokenizer, with_system) == f"{before}{one}{earlier}{before}{two}{end}"
            assert "Be brief." in tokenizer.decode(tokenize(tokenizer, with_system).tokens)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["gemma3", "glm4moe", "llama3", "phi3", "qwen2_5", "qwen3"])
def test_masks_are_exact_with_tokenizers_of_every_kind(family: str, kind: str) -> None:
    tokenizer, end = tokenizer_of(templates_of(family)[0], kind), FAMILIES[family].end
    for one, two in (
        ("Paris is the capital", "I don't know."),
        ("a\n\nb: final", "ja 🙂"),
        ("是的。", "Paris"),
    ):
        assert learned(tokenizer, chat("Q1", one, "Q2", two)) == f"{one}{end}{two}{end}"
        example = tokenize(tokenizer, chat("Q1", one))
        prompt = render(format_of(tokenizer), chat("Q1"), add_generation_prompt=True)
        if family not in {"glm4moe", "qwen3"}:
            asked = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            assert example.tokens[: len(asked)] == asked  # as a server's, to the token
            assert not any(example.loss_mask[: len(asked)])


REASONS = [
    f for f in FAMILIES if f.startswith(("qwen3_5", "qwen3_6", "qwen3_8", "nemotron", "deepseek"))
] + ["qwen3"]


@pytest.mark.parametrize("family", REASONS)
def test_reasoning_in_the_data_is_learned_behind_the_servers_prompt(family: str) -> None:
    tokenizer = tokenizer_of(templates_of(family)[0])
    answer = "<think>\nTwo and two.\n</think>\n\n4"
    said = learned(tokenizer, chat("2 + 2?", answer))
    prompt = render(format_of(tokenizer), chat("2 + 2?"), add_generation_prompt=True)
    # The prompt opens the block, or the model does; a prompt that has closed an empty one wants no
    # reasoning.
    block = (
        "Two and two.</think>"
        if prompt.strip().endswith("<think>")
        else "<think>Two and two.</think>"
    )
    if prompt.strip().endswith("</think>"):
        block = ""
    assert said.replace("\n", "") == f"{block}4{FAMILIES[family].end}"


@pytest.mark.parametrize(
    "family", ["gemma4_v5", "glm4moe", "gptoss", "lfm2_2_5", "lfm2_2_5_v2", "muse_glimmer"]
)
def test_reasoning_is_learned_in_the_words_of_the_template(family: str) -> None:
    """These mark it otherwise than by `<think>`, or read it from a field of the message."""
    said = learned(
        tokenizer_of(templates_of(family)[0]),
        chat("2 + 2?", "<think>\nTwo and two.\n</think>\n\n4"),
    )
    assert said.count("Two and two.") == 1
    assert said.endswith(f"4{FAMILIES[family].end}")


@pytest.mark.parametrize("family", sorted(WITHOUT_THINKING))
def test_an_answer_follows_the_prompt_that_a_server_renders_without_thinking(family: str) -> None:
    tokenizer = tokenizer_of(templates_of(family)[0])
    format = chat_format(tokenizer, {"enable_thinking": False})
    text, (answer,) = marked(format, chat("2 + 2?", "4"))
    assert text[: answer.start] == render(format, chat("2 + 2?"), add_generation_prompt=True)
    assert text[answer.start : answer.end].lstrip("\n") == f"4{FAMILIES[family].end}"


@pytest.mark.parametrize(
    "family", [family for family in FAMILIES if family not in {*REASONS, "glm4moe"}]
)
def test_an_answer_follows_the_prompt_that_a_server_renders(family: str) -> None:
    format = format_of(tokenizer_of(templates_of(family)[0]))
    text, (_, answer) = marked(format, chat("Q1", "One.", "Q2", "Two."))
    assert text[: answer.start] == render(
        format, chat("Q1", "One.", "Q2"), add_generation_prompt=True
    )


def test_an_empty_block_of_reasoning_is_not_learned() -> None:
    """A model that thinks would learn to stop thinking."""
    tokenizer = tokenizer_of(templates_of("qwen3")[0])
    assert learned(tokenizer, chat("2 + 2?", "4")) == "4<|im_end|>"
    whole = tokenizer.decode(tokenize(tokenizer, chat("2 + 2?", "4")).tokens)
    assert whole.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n4<|im_end|>\n")
    distilled = tokenizer_of(templates_of("deepseek_r1_distill")[0])
    whole = distilled.decode(tokenize(distilled, chat("2 + 2?", "4")).tokens)
    assert whole.endswith("<｜Assistant｜><think>\n\n</think>\n\n4<｜end▁of▁sentence｜>")


def test_where_a_choice_is_scored_the_reasoning_is_closed() -> None:
    ends = {
        "qwen3": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "deepseek_r1_distill": "<｜Assistant｜><think>\n\n</think>\n\n",
        "nemotron_3_nano": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "llama3": "assistant<|end_header_id|>\n\n",
        "smolvlm": "\nAssistant:",  # cannot be trained on, and is asked all the same
    }
    several = chat("Q1", "<think>\nHm.\n</think>\n\nOne.", "Q2")
    for family, end in ends.items():
        format = format_of(tokenizer_of(templates_of(family)[0]))
        text = answer_start(format, several)
        assert text.startswith(
            render(format, several, add_generation_prompt=True)
        )  # earlier turns as they are served
        assert text.endswith(end)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_turn_ends_with_a_token_at_which_a_server_can_stop(family: str) -> None:
    ends = FAMILIES[family].end
    token = end_of_turn(format_of(tokenizer_of(templates_of(family)[0])))
    assert token
    assert ends.endswith(token)


REWRITES = (
    "{% for message in messages %}{% if message.role == 'user' or loop.last %}"
    "<|{{ message.role }}|>{{ message.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
OTHERWISE = REWRITES.replace("<|assistant|>{% endif %}", "<|assistant|>Answer: {% endif %}")


def test_what_is_refused_is_refused_with_the_reason() -> None:
    tokenizer = tokenizer_of(REWRITES)
    assert learned(tokenizer, chat("a", "b")) == "b<|end|>"
    with pytest.raises(
        UsageError,
        match=r"rewrites earlier turns when the chat goes on.*train on one turn an example",
    ):
        tokenize(tokenizer, chat("a", "b", "c", "d"))
    with pytest.raises(
        UsageError, match="writes a finished answer otherwise than it asks for one"
    ) as one_turn:
        tokenize(tokenizer_of(OTHERWISE), chat("a", "b"))
    assert "earlier turns" not in str(one_turn.value)
    for family in sorted(FOR_IMAGES):
        with pytest.raises(UsageError, match=r"model\.chat_template"):
            tokenize(tokenizer_of(templates_of(family)[0]), chat("a", "b"))
    reasoned = chat("a", "<think>Hm.</think>b")
    assert (
        learned(tokenizer_of(templates_of("gemma4_v5")[0]), reasoned)
        == "<|channel>thought\nHm.\n<channel|>b<turn|>"
    )
    with pytest.raises(UsageError, match=r"leaves out the reasoning of the data \('Hm\.'\)"):
        tokenize(tokenizer_of(templates_of("gemma4")[0]), reasoned)
    with pytest.raises(UsageError, match="System role not supported"):
        tokenize(tokenizer_of(templates_of("gemma")[0]), chat("a", "b", system="Be brief."))


def test_a_template_whose_end_of_turn_the_tokenizer_does_not_know_is_refused() -> None:
    tokenizer = tokenizer_of(REWRITES)
    tokenizer.chat_template = templates_of("qwen2_5")[0]
    with pytest.raises(
        UsageError, match=r"ends a turn with '<\|im_end\|>', which is no token of this tokenizer"
    ):
        end_of_turn(format_of(tokenizer))
