"""How people say in six languages that they do not know: one table a language, and nothing that
decides."""

from assay.rules.languages.chinese import CHINESE
from assay.rules.languages.english import ENGLISH
from assay.rules.languages.french import FRENCH
from assay.rules.languages.german import GERMAN
from assay.rules.languages.japanese import JAPANESE
from assay.rules.languages.spanish import SPANISH
from assay.rules.languages.table import Table

LANGUAGES: tuple[Table, ...] = (ENGLISH, CHINESE, JAPANESE, GERMAN, FRENCH, SPANISH)
"""Every language that abstentions are recognised in."""
