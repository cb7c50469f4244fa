"""What Spanish says when it does not know."""

from assay.rules.languages.table import Table

_TURNS = (
    "pero|sin embargo|aunque|quizás?|tal vez|probablemente|posiblemente|seguramente|creo|"
    "pienso|supongo|imagino|debe de|unos|unas|aproximadamente|exactamente|mejor que|hasta|sino"
)

SPANISH = Table(
    name="Spanish",
    labels=("(?:mi |la )?respuesta", "asistente"),
    slots={
        "rest": rf"(?: (?!(?:{_TURNS})\b)\S+){{0,24}}",
        "subject": rf"(?:(?!(?:{_TURNS}|y|es|son|era|fue|está)\b)\S+ ){{1,12}}",
        "surely": "(?:(?:realmente|lamentablemente|desafortunadamente|sinceramente|actualmente|"
        "simplemente|por el momento|ahora|explícitamente|claramente|todavía|aún|muy|del todo|"
        "completamente|totalmente|absolutamente|yo|ya) )*+",
        "ask": "(?:responder|contestar|decir(?:le|te|lo)?|saber(?:lo)?|determinar(?:lo)?|"
        "confirmar(?:lo)?|verificar(?:lo)?|predecir|prever|encontrar|proporcionar|dar(?:le|te)?|"
        "ayudar(?:le|te)?|precisar|asegurar(?:lo)?|identificar|responder(?:le|te))",
        "can": "(?:puedo|podría|podemos|puede|sabría|logro|consigo|soy capaz de|"
        "estoy en condiciones de)",
        "facts": "(?:información|informaciones|datos|dato|respuesta|conocimiento|conocimientos|"
        "acceso|idea|detalles|registro|constancia)",
        "text": "(?:(?:el|este|ese) )(?:texto|pasaje|artículo|fragmento|contexto|documento|"
        "párrafo|relato)(?: (?:proporcionado|dado|anterior))?",
        "says": "(?:dice|menciona|especifica|indica|proporciona|da|contiene|incluye|aclara|"
        "precisa|revela|responde|ofrece|explica|habla)",
        "said": "(?:mencionad[oa]s?|especificad[oa]s?|indicad[oa]s?|dad[oa]s?|proporcionad[oa]s?|"
        "conocid[oa]s?)",
        "places": "(?:país|lugar|sitio|ciudad|estado|región|nación|territorio)",
    },
    openings=(
        "(?:lo )?(?:siento|lamento)(?: mucho)? (?:pero |que "
        ")?|(?:disculpe|disculpa|perdón|perdona|perdone) (?:pero )?",
        "(?:desafortunadamente|lamentablemente|sinceramente|honestamente|la verdad|"
        "la verdad es que|francamente|pues|bueno|y|pero|así que|eh) ",
        "(?:debo|tengo que) (?:admitir|decir|confesar) que |me temo que ",
    ),
    abstentions=(
        "(?:yo )?no (?:lo |la |los )?(?:sé|se|sabemos)(?: yo)?(?: nada)?(?! (?:por qué|preocupe))…",
        "(?:yo )?no (?:lo |la |los |me )?(?:conozco|recuerdo|acuerdo|reconozco|sabría|entiendo)…",
        "(?:yo )?(?:lo )?(?:desconozco|ignoro)…|se (?:desconoce|ignora)…",
        "(?:no tengo |ni |no tengo ni )(?:la (?:más mínima|menor) |la |puñetera )?(?:idea)…|"
        "ni idea…|no tengo (?:ni )?(?:pajolera )?idea…",
        "(?:yo )?no (?:lo )?estoy <surely>(?:segur[oa]|ciert[oa]|al tanto|familiarizad[oa])…|no "
        "(?:es )?segur[oa]",
        "(?:yo )?no (?:le |te |lo )?<can> <surely><ask>…",
        "(?:me es |es |resulta |me resulta )?(?:imposible|difícil)(?: para mí)? (?:de )?<ask>…",
        "(?:yo )?no (?:tengo|dispongo|cuento|poseo|encuentro|encontré|hallo|"
        "he encontrado)(?: (?:de|con))? <surely>(?:esa|esta|ese|suficiente|suficientes|ninguna|"
        "ningún|la|el|información|datos|acceso|una|conocimientos?|más)\\b…",
        "(?:no hay|sin) (?:suficiente |suficientes )?<facts>…|no hay forma de saber(?:lo)?…",
        "<text> no (?:lo |la |me )?<says>…",
        "(?:<subject>)?no (?:se|está|fue|es) <surely>(?:menciona|dice|especifica|indica|sabe|"
        "conoce|proporciona|aclara|<said>)(?: (?:en|con|a)…)?",
        "(?:esa|esta|la) (?:información|respuesta) no (?:está|se encuentra) <surely>disponible(?: "
        "(?:en|para)…)?",
        "(?:(?:es|<subject>es|<subject>sigue siendo) )?<surely>(?:desconocid[oa]s?|inciert[oa])(?: "
        "hasta la fecha)?",
        "nadie (?:lo |la )?(?:sabe|puede (?:saber|decir|predecir)(?:lo)?)…",
        "<subject>no existe(?: realmente| en realidad)?|no existe(?:n)? "
        "(?:ningún|ninguna|tal|ese|un|una)…",
        "no hay (?:ningún|ninguna|tal)(?! duda)…",
        "<subject>(?:es|parece ser|sería|no es)(?: un| una)? <places> (?:ficticio|ficticia|"
        "imaginario|imaginaria|inventado|inexistente|real)",
        "(?:yo )?(?:nunca|jamás|no) (?:he oído|había oído|oí)(?: hablar)?…",
        "no sabría (?:decirle|decirte|decir|responder)…|está fuera de mi…|eso "
        "(?:escapa|excede)…|sin respuesta",
    ),
    asides=(
        "(?:lo )?(?:siento|lamento)(?: mucho)?|disculpe|disculpa|perdón|desafortunadamente|"
        "lamentablemente|sinceramente|honestamente|la verdad|francamente|pues|bueno|eh|gracias|"
        "hola",
        "como (?:ia|modelo|inteligencia artificial|asistente)(?: \\S+){0,5}",
        "(?:según|en|de acuerdo con|basándome en) <text>",
        "(?:mi conocimiento|mis conocimientos|mis datos|mi información)\\b.{0,80}",
        "s[oó]lo puedo responder\\b…",
    ),
    states=r"\b(?:es|son|era|fue|está|se llama)\b",
    advice=(
        "(?:por favor|podría|podrías|puedes|puede usted|usted "
        "puede|consulte|consulta|contacte|contacta)\\b",
        "(?:(?:le|te) (?:recomiendo|sugiero|aconsejo)|si (?:usted|tienes|necesita|puede|me)|"
        "no dude|no dudes|hay algo más|puedo ayudar\\w*)\\b",
    ),
)
