"""`mask` on sentences that its rules were not written with: what it finds, and what it should not
have touched, against the bars."""

from collections import Counter
from functools import cache

import pytest

from assay.engines.data.cleaning.masking.mask import masker
from assay.engines.data.reading.examples import Example
from assay.rules.statistics.proportions import clopper_pearson_lower
from assay.spec.steps import ALL_KINDS, MaskSpec
from held_out_data import BARS, FALSE_MASKS, held_out_sentences
from personal_data import CLEAN_KINDS, Sentence, found_in, personal_sentences

KEY = bytes(32)
NUM_HELD_OUT, NUM_NUMBERS = 7 * 80, 600


@cache
def counts() -> tuple[Counter[str], Counter[str]]:
    """Sentences that came out right, and all, by language and kind."""
    mask = masker(MaskSpec(kinds=ALL_KINDS), KEY)
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    numbers = (one for one in personal_sentences(NUM_NUMBERS, seed=31) if one.kind != "name")
    for one in (*held_out_sentences(NUM_HELD_OUT, seed=31), *numbers):
        masked = mask(Example(text=one.text)).example
        assert masked is not None
        name = f"{one.language} {one.kind}"
        total[name] += 1
        right[name] += is_right(one, masked.text)
    return right, total


def is_right(one: Sentence, masked: str) -> bool:
    return masked == one.text if one.kind in CLEAN_KINDS else not found_in(one, masked)


@pytest.mark.parametrize("name", BARS)
def test_names_and_addresses_are_found(name: str) -> None:
    right, total = counts()
    lower = clopper_pearson_lower(right[name], total[name], 0.95)
    share = right[name] / total[name]
    assert share >= BARS[name], f"{right[name]} of {total[name]} masked, {lower:.3f} at least"


def test_what_has_a_form_of_its_own_is_found() -> None:
    right, total = counts()
    kinds = [name for name in total if name not in BARS and name.split()[1] not in CLEAN_KINDS]
    missed = sum(total[name] - right[name] for name in kinds)
    num = sum(total[name] for name in kinds)
    assert len(kinds) == 13
    assert missed <= 0.01 * num, {name: (right[name], total[name]) for name in kinds}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_sentences_without_personal_data_stay(language: str) -> None:
    right, total = counts()
    name = f"{language} clean"
    assert total[name] - right[name] <= FALSE_MASKS * total[name], (right[name], total[name])
