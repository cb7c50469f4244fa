"""What French says when it does not know."""

from assay.rules.languages.table import Table

_TURNS = (
    "mais|cependant|pourtant|toutefois|peut-être|probablement|sans doute|sûrement|"
    "vraisemblablement|environ|pense|crois|suppose|imagine|bien que|sauf|que "
    "les|exactement|précisément"
)

FRENCH = Table(
    name="French",
    labels=("(?:ma |la )?réponse", "assistant"),
    slots={
        "rest": rf"(?: (?!(?:{_TURNS})\b)\S+){{0,24}}",
        "subject": rf"(?:(?!(?:{_TURNS}|et|est|sont|était)\b)\S+ ){{1,12}}",
        "surely": "(?:(?:vraiment|malheureusement|honnêtement|pas encore|actuellement|"
        "tout simplement|pour le moment|hélas|explicitement|clairement|encore|du tout|aussi|"
        "absolument|tout à fait|très|totalement|bien) )*+",
        "not": "(?:pas|point|guère|plus)",
        "ne": "(?:ne |n'|n' )?",
        "ask": "(?:répondre|dire|savoir|déterminer|confirmer|vérifier|prédire|prévoir|trouver|"
        "fournir|donner|aider|préciser|connaître|affirmer|indiquer|identifier|renseigner)",
        "can": "(?:peux|peut|pourrais|pourrait|pouvons|parviens|sais|saurais|saurait|"
        "suis <not> (?:en mesure de|capable de))",
        "facts": "(?:information|informations|données|donnée|réponse|connaissance|connaissances|"
        "renseignement|renseignements|accès|idée|détails|précisions|éléments)",
        "text": "(?:(?:le|ce|cet|l'|la|cette) ?)(?:texte|passage|article|extrait|contexte|"
        "document|histoire|paragraphe)(?: (?:fourni|donné|ci-dessus))?",
        "said": "(?:mentionnée?s?|précisée?s?|indiquée?s?|spécifiée?s?|dite?s?|donnée?s?|"
        "fournie?s?|connue?s?|évoquée?s?)",
        "places": "(?:pays|lieu|endroit|ville|état|région|nation|territoire)",
    },
    openings=(
        "(?:je suis )?(?:vraiment |sincèrement )?désolée? (?:mais )?|(?:je m'excuse|excusez-moi|"
        "pardon|navrée?) (?:mais )?",
        "(?:malheureusement|honnêtement|franchement|hélas|et|mais|donc|euh|hum|ah|alors) ",
        "je (?:dois avouer|crains|regrette) (?:que |de )?",
    ),
    abstentions=(
        "(?:je |on |nous )<ne>(?:le |l'|la |les )?(?:sais|sait|savons|connais|connaît|"
        "reconnais) <surely><not>…|j'sais pas|chais pas|sais pas",
        "(?:je |on )<ne>(?:en )?sais (?:absolument |vraiment )?rien…|je n'en sais (?:absolument "
        "|fichtre )?rien",
        "(?:je |j'|on )(?:l'ignore|ignore)…",
        "(?:je |j')?(?:n'ai |n'en ai |ai |en ai )?<surely>(?:aucune|pas la moindre|pas d'|nulle) "
        "?(?:idée)…",
        "je <ne>(?:n')?(?:en |m'en )?(?:suis) <surely><not> <surely>(?:sûre?|certaine?|"
        "au courant|familiers?|familière)…|(?:pas|non) (?:sûre?|certaine?)",
        "je <ne>(?:vous |te |le |l'|y |en |lui )*<can> <surely>(?:<not> )?<surely>(?:vous |te |"
        "le |l'|y |en )*(?:<ask>)…",
        "je <ne>suis <not> (?:en mesure|capable) (?:de |d')(?:vous |te |le |l'|y )*<ask>…",
        "(?:il )?(?:m'est |est |c'est |il m'est )?(?:impossible|difficile)(?: pour moi)? (?:de |"
        "d'|à )(?:vous |te |le |l'|y |en )*<ask>…|impossible à (?:dire|savoir)",
        "je <ne>(?:dispose|possède|détiens|trouve|ai) <surely>(?:pas|aucune|aucun|pas assez|"
        "pas suffisamment) ?<surely>(?:de |d'|cette |ces |cet |la |l'|à |accès)?…",
        "j'?e? ?n'ai <surely>(?:pas|aucune|aucun|jamais)(?! (?:de doute|"
        "besoin)) ?(?:suffisamment |assez )?(?:de |d'|cette |ces |cet |la |l'|"
        "accès )?(?:\\w+ )?<facts>…",
        "(?:pas|aucune|il n'y a (?:pas|aucune)) (?:assez |suffisamment )?(?:de |d')?<facts>…",
        "<text> <ne>(?:le |l'|la |les )?(?:dit|mentionne|précise|indique|donne|fournit|contient|"
        "spécifie|parle|répond|révèle|permet) <surely>(?:pas|rien|aucune|aucun)…",
        "(?:ce |cela |il |elle |<subject>)<ne>(?:est|sont|était) <surely><not> <surely><said>(?: "
        "(?:dans|par|ici)…)?",
        "(?:cette|l'|la) ?(?:information|réponse|donnée) <ne>est <surely><not> "
        "<surely>(?:disponible|accessible)…",
        "(?:c'est |cela est |<subject>(?:est|reste) )?<surely>(?:inconnue?s?|incertaine?)(?: à ce "
        "jour)?",
        "(?:personne|nul) <ne>(?:le |l'|la )?(?:sait|connaît|peut (?:le "
        "|l')?(?:savoir|dire|prédire|prévoir))…",
        "<subject><ne>existe(?:nt)? <not>(?: vraiment| réellement)?|(?:il )?<ne>existe "
        "(?:aucun|aucune|pas)…",
        "il <ne>y a (?:pas|aucun|aucune)(?! (?:de doute|doute|raison|besoin)) …|il n'y a (?:pas|"
        "aucun|aucune)(?! (?:de doute|doute|de capitale|raison|besoin))…",
        "<subject>(?:est|semble être|serait|n'est pas)(?: un| une)? <places> (?:fictif|fictive|"
        "imaginaire|inventée?|inexistante?|réel|réelle)",
        "(?:je |j')?(?:n'ai|ai) jamais entendu…",
        "(?:je |j')?n'ai <surely>(?:rien )?(?:trouvé|pu trouver) <surely>(?:aucune?|pas d'|de)…|je "
        "n'ai rien trouvé…",
        "de ne pas (?:savoir|connaître|pouvoir)…|je <ne>saurais <surely>(?:<not> )?(?:vous |te "
        ")?<ask>…",
        "je <ne>m'en souviens <not>|je <ne>me (?:souviens|rappelle) <not>…|je <ne>(?:reconnais|"
        "comprends) <not>…|j'ai oublié",
        "cela (?:dépasse|sort de) (?:mes|le cadre)…",
    ),
    asides=(
        "(?:je suis )?(?:vraiment |sincèrement )?(?:désolée?|navrée?)|pardon|excusez-moi|"
        "malheureusement|honnêtement|franchement|hélas|euh|hum|merci|bonjour|alors",
        "en tant qu'?(?:ia|intelligence artificielle|assistant|modèle|\\w*ia\\b)(?: \\S+){0,5}|"
        "en tant que modèle(?: \\S+){0,4}",
        "(?:d'après|selon|dans|à partir de|sur la base de) <text>",
        "(?:mes connaissances|mes données|ma base)\\b.{0,80}",
    ),
    states=r"\b(?:est|sont|était|c'est|s'appelle)\b",
    advice=(
        "(?:veuillez|pourriez-vous|pouvez-vous|peux-tu|vous (?:pouvez|pourriez|devriez))\\b",
        "(?:je vous (?:recommande|conseille|suggère|invite)|consultez|si vous|n'hésitez|merci de|y "
        "a-t-il|puis-je)\\b",
    ),
)
