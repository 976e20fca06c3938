"""The languages of the pages: English, and every other by the catalogue that stands for it."""

from pathlib import Path

from django.conf.locale import LANG_INFO
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy, to_language

LANGUAGES_DIR = Path(__file__).resolve().parents[1] / "frontend" / "locale"


def available_languages(folder: Path = LANGUAGES_DIR) -> list[tuple[str, str | Promise]]:
    """Return code and name of English and of each language that has a compiled catalogue (as zh_Hans/LC_MESSAGES)."""
    found = sorted(to_language(path.parts[-3]) for path in folder.glob("*/LC_MESSAGES/django.mo"))
    # Names come in the reader's language from Django's own catalogues.
    return [(code, gettext_lazy(LANG_INFO[code]["name"])) for code in ["en", *found]]
