"""What German says when it does not know."""

from assay.rules.languages.table import Table

_TURNS = (
    "aber|doch|jedoch|allerdings|sondern|vielleicht|wahrscheinlich|vermutlich|wohl|"
    "möglicherweise|eventuell|etwa|schätze|glaube|denke|vermute|obwohl|außer|als|bis"
)

GERMAN = Table(
    name="German",
    labels=("(?:meine |die )?antwort", "assistent"),
    slots={
        "rest": rf"(?: (?!(?:{_TURNS})\b)\S+){{0,24}}",
        "subject": rf"(?:(?!(?:{_TURNS}|und|ist|sind|war|waren)\b)\S+ ){{1,12}}",
        "surely": "(?: ?\\b(?:leider|auch|wirklich|ehrlich gesagt|ehrlich|einfach|momentan|"
        "derzeit|gerade|aktuell|noch|dazu|darüber|hierzu|hierüber|davon|mir|da|bisher|ihnen|dir|"
        "gar|überhaupt|im moment|zurzeit|zur zeit|so|nun|ganz|sehr|explizit|ausdrücklich|absolut|"
        "mit sicherheit|sicher|näher|daher|deshalb|also)\\b)*+",
        "know": "(?:weiß|weiss|wei(?:ß|ss)te?|wusste)",
        "it": "(?:das|es|dies|dies(?:e|er|es) frage|die antwort|die frage|diese information|"
        "diese informationen)",
        "text": "(?:der|dieser|dem|diesem|im|den)?(?: (?:gegebene|vorliegende|bereitgestellte|"
        "obige)[nr]?)? ?(?:text|artikel|abschnitt|kontext|absatz|dokument|geschichte|quelle|"
        "passage|auszug)",
        "do": "(?:sagen|beantworten|wissen|bestimmen|bestätigen|ermitteln|beurteilen|vorhersagen|"
        "feststellen|finden|geben|nennen|helfen|weiterhelfen|mitteilen|erkennen|sehen|erinnern|"
        "einschätzen|voraussagen|überprüfen|verraten)",
        "places": "(?:land|staat|ort|stadt|gebiet|region|name|nation|dorf)",
    },
    openings=(
        "(?:es )?tut mir (?:sehr |wirklich )?leid (?:aber |dass )?",
        "(?:leider|ehrlich "
        "gesagt|nun|tja|hm++|also|und|aber|daher|deshalb|ach|sorry|entschuldigung) ",
        "ich (?:muss|fürchte) (?:gestehen|zugeben|sagen)? ?",
    ),
    abstentions=(
        "(?:ich |wir )?<know><surely>(?: <it>)?<surely>(?: ich)?<surely> nicht…",
        "(?:<it>|da|dazu|hierzu|so etwas|was)? ?<know>(?: ich)?<surely> nicht…",
        "(?:leider )?<know>(?: ich)?(?: <it>)?<surely> nicht…",
        "ich kenne<surely>…(?: nicht)(?: (?!(?:aber|doch)).{0,60})?",
        "ich kenne<surely> (?:kein|keine|keinen)…",
        "(?:ich |da |da habe ich |ich habe )?(?:hab(?:e)? )?(?:ich )?<surely> ?(?:keine|"
        "null)(?: blasse| leiseste)? (?:ahnung|idee|plan)…",
        "(?:ich |da |dessen )?bin(?: ich)?<surely>(?: dessen)? nicht(?: \\w+){0,2} "
        "(?:sicher|gewiss)…",
        "nicht sicher|unsicher|weiß nicht|weiss nicht|kein kommentar|k\\.? ?a",
        "(?:<it>|<subject>)?(?:ich )?(?:kann|konnte|könnte)(?: ich)?(?: <it>)?<surely>(?: mich)?…? "
        "nicht(?: …)? ?<do>…",
        "ich (?:kann|konnte)<surely>(?: <it>)?<surely>…? nicht <do>…",
        "(?:ich )?(?:kann|konnte)(?: ich)?(?: ihnen| dir)?<surely>(?: ihnen|"
        " dir)?<surely> keine (?:auskunft|antwort|information|informationen|angaben|aussage)…",
        "<it> lässt sich<surely>…? nicht…|<it> (?:kann|konnte) (?:man )?<surely>nicht <do>(?: "
        "werden)?…",
        "<it> ist<surely>(?: mir)? nicht bekannt|"
        "<subject>ist<surely>(?: mir)?<surely> nicht bekannt…|mir ist<surely> (?:das nicht|"
        "kein)…|mir (?:ist|sind)<surely> (?:nicht|keine?n?r?)…bekannt",
        "(?:(?:dazu|darüber|hierzu|mir|es) )?liegen(?: mir)?<surely> (?:keine|nicht genügend|"
        "nicht genug|nicht ausreichend)…|mir liegen<surely> keine…",
        "(?:(?:dazu|darüber|hierzu|leider|als ki|ich) )?(?:habe|"
        "besitze)(?: ich)?<surely> (?:keine?n?|nicht genügend|nicht genug|"
        "nicht ausreichend) (?:\\w+ ){0,2}(?:informationen|information|daten|kenntnis|kenntnisse|"
        "angaben|zugriff|zugang|wissen|antwort|hinweise)…",
        "<text> (?:<subject>)?(?:gibt|enthält|liefert|macht|bietet|nennt)<surely>…? "
        "?(?:keine?n?|nicht|nichts)…",
        "<text> (?:<subject>)?(?:sagt|erwähnt|nennt|verrät|beantwortet|besagt)<surely>…? "
        "?(?:nicht|nichts)…",
        "(?:<it>|<subject>)?(?:steht|geht|wird|ist|sind|werden)<surely>…? (?:nicht|nirgends|"
        "nichts)<surely>(?: (?:in|im|aus) <text>)?(?: (?:hervor|erwähnt|genannt|angegeben|gesagt|"
        "beschrieben|enthalten|erkennbar|ersichtlich|überliefert))?",
        "(?:<it>|<subject>)?(?:<it> )?(?:ist|bleibt|sind)?<surely> ?(?:unbekannt|unklar|"
        "nicht bekannt|ungewiss|nicht ersichtlich)",
        "(?:niemand|keiner)<surely> (?:<know>|kann|könnte)<surely>…?|<it> (?:<know>|kann|"
        "könnte)<surely> (?:niemand|keiner)…",
        "(?:ein(?:e|en|es)? )?(?:solche[nrs]?|so ein(?:e|en)?|diese[ns]?) \\w+ (?:gibt es|"
        "existiert|kenne ich)<surely> nicht",
        "(?:es |so ein \\w+ )?gibt(?: es)?<surely> (?:kein(?:e|en|er)?)(?! (?:zweifel|frage))…",
        "(?:<subject>)?existiert<surely> nicht(?: wirklich)?|(?:<subject>)?gibt es<surely> nicht",
        "<subject>(?:ist|scheint)<surely> (?:kein|keine) (?:echte[srn]?|reale[srn]?|"
        "existierende[srn]?|wirkliche[srn]?) …",
        "<subject>(?:ist|scheint)<surely> (?:ein|eine)? ?(?:fiktive[rs]?|erfundene[rs]?|"
        "imaginäre[rs]?|fiktionale[rs]?) <places>(?: zu sein)?",
        "(?:von |über )?(?:<subject>)?(?:habe ich|ich habe)<surely>…? ?(?:nie|"
        "nichts)(?: etwas)? (?:gehört|davon gehört)",
        "ich habe<surely> (?:noch )?(?:nie|nichts)…(?:gehört)",
        "(?:das ist |es ist )?(?:schwer|schwierig|unmöglich|"
        "nicht möglich)(?: für mich)? zu (?:sagen|beantworten|wissen|beurteilen)…",
        "(?:das|dies) (?:entzieht sich|liegt außerhalb|übersteigt)…",
        "(?:dazu |darüber |hierzu )?kann ich<surely> (?:nichts|nicht viel)<surely> "
        "(?:sagen|beitragen)",
        "ich verfüge<surely> (?:nicht|über kein\\w*)…|ich bin<surely> überfragt|da bin ich<surely> "
        "überfragt",
        "(?:es )?existiert<surely> kein(?:e|er)?…",
        "ich erinnere mich<surely>…? nicht…|daran erinnere ich mich<surely> nicht|ich (?:habe "
        "(?:es|das) vergessen)",
    ),
    asides=(
        "(?:es )?tut mir (?:sehr |wirklich )?leid|leider|entschuldigung|entschuldigen sie|sorry|"
        "verzeihung|ehrlich gesagt|hm++|tja|nun|ich fürchte|danke|ähm?|hallo",
        "als (?:ki|künstliche intelligenz|sprachmodell|ki-\\w+|ai)(?: \\S+){0,4}",
        "(?:wie|wer|was|wo|wann|ob|welche[rsnm]?|warum|wieso|wohin|woher|wessen)\\b…",
        "um \\S+(?: \\S+){0,8} zu \\w+",
        "(?:laut|aus|nach|basierend auf|anhand|aufgrund) (?:des |dem |den |"
        "der )?(?:\\w+ )?(?:text\\w*|informationen|angaben|kontext\\w*)",
        "(?:mein wissen|meine (?:daten|trainingsdaten|kenntnisse))\\b.{0,80}",
    ),
    states=r"\b(?:ist|sind|war|waren|heißt|lautet)\b",
    advice=(
        "(?:bitte|könnten sie|können sie|kannst du|könntest du|sie (?:können|könnten|sollten)|"
        "wenden sie|fragen sie)\\b",
        "(?:ich (?:empfehle|rate)|falls|wenn sie|gerne|gibt es sonst|kann ich "
        "(?:ihnen|dir)|meinten sie|meinen sie)\\b",
    ),
)
