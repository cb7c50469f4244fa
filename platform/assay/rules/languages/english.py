"""What English says when it does not know."""

from assay.rules.languages.table import Table

_TURNS = (
    "but|however|though|although|so|maybe|perhaps|probably|possibly|likely|guess|think|"
    "believe|suppose|assume|than|except"
)

ENGLISH = Table(
    name="English",
    labels=(r"(?:(?:my|the|final|short) )*answer", "a", "response", "assistant"),
    slots={
        # What an abstention goes on with: anything that does not turn towards an answer.
        "rest": rf"(?: (?!(?:{_TURNS})\b)\S+){{0,30}}",
        "subject": rf"(?:(?!(?:{_TURNS}|and|is|are|was|were)\b)\S+ ){{1,14}}",
        "surely": "(?:(?:really|actually|honestly|simply|just|currently|personally|also|still|"
        "yet|even|specifically|explicitly|directly|clearly|definitively|exactly|publicly|"
        "well and truly) )*+",
        "i": "(?:(?:i|we)(?: |(?=')))?<surely>",
        "not": "(?:not|n't) <surely>",
        "do_not": "(?:do not|don't|dont|did not|didn't) <surely>",
        "does_not": "(?:does not|doesn't|do not|don't|did not|didn't) <surely>",
        "am": "(?:am|'m|m) <surely>(?:afraid )?",
        "is": "(?:is|'s|are|was|were|remains|remain|seems|appears)",
        "is_not": "(?:(?:is|'s|was|are|were|remains|has been|have been) not|(?:is|was|are|"
        "were)n't|(?:has|have) not been|(?:has|have)n't been)",
        "when": " (?:to (?:me|us|anyone|science|scholars|historians|this day|date)|at (?:this|"
        "the) time|(?:from|in|who|what|when|where|how|why|whether)\\b…)",
        "cannot": r"(?:cannot|can't|cant|can not|could not|couldn't|<am>(?:unable to|"
        r"not able to)|was unable to|was not able to|will not be able to|"
        r"won't be able to)(?: \w+ly)?",
        "it": "(?:it|that|this|(?:the|this|that) (?:answer|information|data|detail|question))",
        "text": "(?:(?:the|this|that|your) )?(?:(?:given|provided|above|short) )?(?:text|passage|"
        "context|author|writer|narrator|knowledge base|article|document|story|paragraph|excerpt|"
        "source|question|information|(?:search )?results?|(?:website )?content|database|"
        "data)(?: (?:itself|given|provided|above))?",
        "places": "(?:country|nation|state|place|land|location|city|town|region)",
        "made_up": "(?:fictional|fictitious|imaginary|made-up|invented|hypothetical|non-existent|"
        "nonexistent)",
    },
    openings=(
        "(?:i am |i'm )?(?:(?:very|so|truly|really) )?sorry (?:but |that |to say (?:that )?)?",
        "i apologi[sz]e (?:but |that )?",
        "i(?: am|'m) afraid (?:that |but )?",
        "i (?:must|have to) (?:admit|say) (?:that )?",
        "i regret (?:that |to say (?:that )?)?",
        "(?:unfortunately|honestly|well|sadly|hmm++|oh|um++|uh++) ",
        "(?:so|and|but|therefore|thus|hence|because|since|as) ",
        "at (?:this|the) (?:time|moment) ",
    ),
    abstentions=(
        "<i><do_not>(?:know|recall|remember|recogni[sz]e|understand)…",
        "(?:that|this) (?:i|we) <do_not>know",
        "<i><do_not>have (?:an?|any|enough|the|that|this|such|access|sufficient|specific|"
        "information|data|knowledge|details|context|real-time)\\b…",
        r"i ?<am>not(?: (?:\w+ly|so|too|quite|100%))? (?:sure|certain|aware|familiar|able)\b…",
        r"i(?: am|'m) (?:\w+ly )?(?:unsure|uncertain|unaware|unfamiliar)\b…",
        r"not (?:\w+ly |so |too |quite )?(?:sure|certain)…",
        "we (?:are|were) not given <surely>(?:any|enough|sufficient|that|this|the)…",
        "<i><cannot> (?:answer|say|tell|know|determine|find|provide|confirm|verify|help|recall|"
        "remember|predict|explain|describe|comment|speak|give|access|locate|identify|be (?:sure|"
        "certain))…",
        "(?:i have |i've (?:got )?|i got |<i>have )?(?:absolutely )?no (?:idea|clue|information|"
        "knowledge|data|records?|details?|evidence|answer|way|means|memory|mention)…",
        "i (?:have not|haven't)(?: got)? (?:a|the (?:faintest|slightest|foggiest)) (?:clue|idea)…",
        "i(?:'ve| have)? (?:never|not|haven't) (?:heard|come across)…",
        "i haven't heard…",
        "i know (?:nothing|very little) (?:about|of)…",
        "i (?:would not|wouldn't) know",
        "i(?: am|'m) drawing a blank|i (?:forget|forgot)|beats me|search me|who knows|no comment",
        "your guess is as good as mine|<it> ?<is> anyone's guess",
        "i lack (?:the|any|enough|sufficient)…|(?:i ?<am>)not in (?:a|any) position to…",
        "i <do_not>(?:think|believe) (?:that )?(?:there (?:is|are|was)…|<subject>exists?|"
        "<subject>is (?:an? )?real\\b…)",
        r"(?:no one|nobody)(?: \w+ly)? (?:knows|can(?: \w+ly)? (?:know|say|tell|predict|answer|"
        r"be sure))…",
        "<it> ?<is> (?:beyond|outside)(?: of)? (?:my|the|what i)…",
        "(?:<subject>)?(?:cannot|can't|can not|could not|couldn't) be <surely>(?:known|"
        "determined|answered|predicted|inferred|verified|established|said|found)…",
        "(?:it(?: is|'s) )?(?:impossible|not possible|hard|difficult|"
        "too early)(?: for me)? to (?:know|say|tell|determine|answer|predict|provide|give)…",
        "<it> ?<is> (?:not|n't) <surely>available…|<it> ?<is> unavailable…|<it> isn't "
        "<surely>available…",
        "there(?: is|'s) nothing (?:in|about|on)…",
        "<text> (?:gives?|provides?|contains?|has|offers?|makes?) (?:no|nothing)\\b…",
        "there(?: is|'s| are) no(?! (?:doubt|question|denying|better|need)\\b)…",
        "there (?:is not|isn't|are not|aren't) <surely>(?:any|a|enough|sufficient)…",
        "there <does_not>(?:appear|seem) to be (?:any|a|an|such|enough)…",
        "<subject><does_not>(?:contain|provide|include|give|have) (?:(?:any|enough|specific|"
        "sufficient|the|relevant) )?(?:information|details|data|context|answer)…",
        "no such \\w+(?: exists?| (?:called|named|of)…)?",
        "(?:insufficient|not enough|no|no relevant) (?:information|data|context|details|evidence)…",
        "<text> <does_not>(?:mention|say|state|specify|provide|contain|give|include|tell|"
        "indicate|reveal|describe|disclose|discuss|address|answer)…",
        "(?:(?:<it> ?|<subject>)<is_not> |not )<surely>(?:mentioned|specified|stated|given|"
        "provided|indicated|disclosed|included|described)(?: (?:in|by|within|anywhere)…)?",
        "(?:the|this|that|such) (?:information|answer|data|details?)… <is_not> "
        "<surely>(?:available|known)…",
        "(?:<it> ?<is> |<subject><is> )?<surely>(?:unknown|unclear|uncertain)(?:<when>)?",
        "(?:(?:<it> ?|<subject>)<is_not> |not )<surely>(?:known|clear)(?:<when>)?",
        "<it> ?<is_not> <surely>(?:something (?:that )?(?:i|we) (?:know|can)|(?:in|part of|within) "
        "(?:my|the))\\b…",
        "(?:i )?dunno|idk|n/a|no (?:data|answer)",
        "<subject><does_not>(?:seem to |appear to )?exist(?: in (?:reality|real life|the real "
        "world))?",
        "<subject><does_not>(?:seem|appear) to be (?:an? "
        ")?(?:real|actual|existing|known|recogni[sz]ed)…",
        "<subject>(?:is not|isn't) (?:an? )?(?:real|actual|existing|recogni[sz]ed) <places>…",
        "(?:it (?:seems|appears)(?: that| like)? )?<subject>(?:appears to be|seems to be|is|"
        "may be|might be) (?:an? |the name of an? )?(?:<made_up>) <places>",
    ),
    asides=(
        "(?:i am |i'm )?(?:(?:very|so|truly|really) )?sorry(?: about that| for (?:that|the "
        "inconvenience))?",
        "i apologi[sz]e(?: for .{0,80})?|my apologies",
        "unfortunately|honestly|to be honest|well|hmm++|oh|um++|uh++|sadly|therefore|thus|hence|"
        "consequently|no worries|thanks|thank you|hello|hi",
        r"(?:as )?an ai(?: \w+){0,3}|as an? (?:ai|large|language)(?: \w+){0,4}",
        "(?:based on|according to|from|in|given) <text>(?: alone| (?:you|that you) "
        "(?:gave|provided))?",
        "(?:as of )?my (?:last |latest |most recent )?(?:knowledge |training )?(?:update|"
        "cut-?off|data|training|knowledge)\\b.{0,80}",
        "(?:so|and|therefore|thus|hence) (?:it|there) (?:has|is|are|does not have|doesn't have) "
        "(?:no|any|an?)\\b…",
        "(?:it|this|that|the name|there)(?: is possible that (?:it|this|you|there|the name)|"
        " it)? (?:may|might|could|is|must|has)?(?: \\w+){0,5} (?:<made_up>|misspell\\w*|misspelt|"
        "typo|error|mistake|misunderstanding|confusion|different name)…",
    ),
    states=r"\b(?:is|was|are|were|it's)\b",
    advice=(
        "please (?:check|consult|ask|provide|contact|clarify|rephrase|refer|verify|try|let me "
        "know|give|visit)\\b",
        "(?:can|could|would|do|did|are|is) you (?:please )?(?:tell|give|provide|clarify|rephrase|"
        "check|ask|share|mean|be more|have more|referring)\\b",
        "(?:is there|can i help|how can i help|let me know|feel free|if (?:you (?:have|could|can|"
        "need|want|would|provide|give|tell|share|meant|mean|are (?:referring|looking|asking))|"
        "there is anything))\\b",
        "(?:but )?i(?:'d| would|'ll| will) (?:be (?:happy|glad)|love) to\\b|i can (?:only "
        ")?(?:help|try|assist)",
        "i (?:would |'d )?(?:recommend|suggest|advise)\\b",
        "you (?:may|might|could|can|should) (?:want to |wish to |need to |try to |also )?(?:try|"
        "check|consult|look|search|ask|contact|refer|verify|visit)\\b",
    ),
)
