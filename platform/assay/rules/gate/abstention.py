"""Whether a response declines to answer."""

import re


def abstained(response: str) -> bool:
    """Whether the response says that the answer is not known, and nothing more.

    The response is cut into clauses. At least one must be an abstention ("I don't know", "I'm not sure
    about that", "I cannot answer that", "I don't have that information", "Unknown", "There is no ...",
    "... does not exist") and every other one an abstention too, or a courtesy ("I'm sorry", "please ask
    someone else"). So "I don't know, but it is Paris" is an answer, as is all that the matcher does not
    know. Every short "There is no ..." counts, so a task whose right answer is such a sentence needs
    another score. Reads English; case, curly apostrophes, and punctuation or white space around the
    response do not matter.

    An empty response is not an abstention: it tells the asker nothing, and a model that falls silent
    must not meet a limit on hallucination by it. (It is not an answer either; a limit on a score such
    as `exact_match` is what notices it.)
    """
    clauses = [_bare(clause) for clause in _CLAUSE_END.split(_plain(response))]
    spoken = [clause for clause in clauses if clause]
    return any(map(_ABSTENTION.fullmatch, spoken)) and all(
        _ABSTENTION.fullmatch(clause) or _COURTESY.fullmatch(clause) for clause in spoken
    )


def _plain(response: str) -> str:
    """Lower case, straight apostrophes, no marks of emphasis or quotation, no label before it."""
    text = re.sub("[\u2018\u2019\u02bc\u0060\u00b4]", "'", response).casefold()
    text = re.sub('[*_"\u201c\u201d]', "", text)
    return re.sub(r"^\s*(?:answer|a)\s*:", "", text)


_CLAUSE_END = re.compile(r"(?<!\bst)(?<!\bmt)(?<!\bdr)\.(?=\s|$)|[!?,;:()\n\u2026\u2013\u2014]+|\.{2,}|\s-+\s")


def _bare(clause: str) -> str:
    """The clause without white space, stray marks and a conjunction in front."""
    words = " ".join(clause.split()).strip(" .'-")
    return re.sub(r"^(?:but|and|so) (?=i\b|it\b|there\b|that\b|this\b|please\b)", "", words)


_I = r"(?:i |we )?(?:(?:really|actually|honestly|simply|just|currently|personally|also) )*"
_DO_NOT = r"(?:do not|don't|dont)(?: (?:really|actually|honestly|currently|yet|even))*"
_AM_NOT = r"(?:am|'m|m) (?:(?:really|actually|honestly|just|afraid) )*not(?: (?:\w+ly|so|too|quite))?"
_CANNOT = r"(?:cannot|can't|cant|can not|could not|couldn't|(?:am|'m) (?:unable|not able) to)(?: \w+ly)?"
_IT = r"(?:it|that|this|the answer|this information|that information|the information)"

# What an abstention goes on with: "the capital of Guinea-Bissau", but nothing that turns towards an answer.
_TURN = "but|however|though|although|so|maybe|perhaps|probably|possibly|likely|guess|think|believe|suppose|assume"
_OBJECT = rf"(?: (?!(?:{_TURN})\b)\S+){{0,20}}"
_SUBJECT = rf"(?:(?!(?:{_TURN}|and|is|are|was|were)\b)\S+ ){{1,12}}"

_WITH_OBJECT = (
    rf"{_I}{_DO_NOT} (?:know|recall|remember|recogni[sz]e)",
    rf"{_I}{_DO_NOT} have (?:an|any|enough|the|that|this|such|access|sufficient|specific|information|data|knowledge)",
    rf"i ?{_AM_NOT} (?:sure|certain|aware|familiar)",
    r"i(?: am|'m) (?:\w+ly )?(?:unsure|uncertain|unaware)",
    r"not (?:\w+ly |so |too |quite )?(?:sure|certain)",
    rf"(?:i |we |i)?{_CANNOT} (?:answer|say|tell|know|determine|find|provide|confirm|verify|help)",
    r"(?:i have |i've (?:got )?)?(?:absolutely )?no (?:idea|clue|information|knowledge)",
    r"(?:no one|nobody) (?:\w+ly )?knows",
    rf"{_IT} (?:cannot|can't|can not) be (?:known|determined|answered)",
    r"(?:it is|it's) (?:impossible|not possible) to (?:know|say|tell|determine|answer)",
    rf"{_IT}(?: is|'s) (?:not available|unavailable)",
    r"(?:there is|there's|there are) no(?! (?:doubt|question|denying|better|need)\b)",
    r"(?:there is not|there's not|there isn't) (?:any|a|enough)",
)
_WHOLE = (
    rf"(?:{_IT}(?: is|'s) |{_SUBJECT}is )?(?:currently |still )?(?:unknown|not known|unclear)(?: to me| at this time)?",
    r"(?:i )?dunno|idk|n/a|no (?:data|answer)",
    rf"{_SUBJECT}(?:does not|doesn't|do not|don't)(?: seem to| appear to| actually)? exist",
)
_SORRY = r"(?:i am |i'm )?(?:very |so |truly )?sorry"
_OPENING = "|".join(
    (
        rf"{_SORRY} (?:but |that )?",
        r"i(?: am|'m) afraid (?:that |but )?",
        r"i must admit (?:that )?",
        r"(?:unfortunately|honestly|well) ",
    )
)
_ABSTENTION = re.compile(f"(?:{_OPENING})?(?:(?:{'|'.join(_WITH_OBJECT)}){_OBJECT}|{'|'.join(_WHOLE)})")
_COURTESY = re.compile(
    rf"{_SORRY}(?: about that| for (?:that|the inconvenience))?|i apologi[sz]e(?: for .*)?|my apologies"
    r"|unfortunately|honestly|to be honest|well|hmm+|(?:as )?an ai(?: \w+){0,3}|thanks|thank you"
    r"|please (?:check|consult|ask|provide|contact|clarify|rephrase)\b.*|(?:can|could|would) you (?:please )?"
    r"(?:tell|give|provide|clarify|rephrase|check|ask)\b.*|(?:is there|can i help|how can i help|let me know)\b.*"
)
