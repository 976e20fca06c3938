"""The pages in every language that has a catalogue: whole, with their blanks, and compiled as they stand."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polib
import pytest
from django.conf import settings
from django.utils.translation.template import templatize

from feedback_app.languages import LANGUAGES_DIR, available_languages

ROOT = Path(__file__).resolve().parents[2]
SAY = "run `make messages`, fill in what is empty or fuzzy, and run it again"
CATALOGUES = sorted(LANGUAGES_DIR.glob("*/LC_MESSAGES/django.po"))
# Where the words of a call stand: (context, singular, plural) as places among its arguments.
CALLS: dict[str, tuple[int | None, int, int | None]] = {
    "_": (None, 0, None), "gettext": (None, 0, None), "gettext_lazy": (None, 0, None), "gettext_noop": (None, 0, None),
    "ngettext": (None, 0, 1), "ngettext_lazy": (None, 0, 1), "pgettext": (0, 1, None), "pgettext_lazy": (0, 1, None),
    "npgettext": (0, 1, 2), "npgettext_lazy": (0, 1, 2),
}  # fmt: skip
Message = tuple[str | None, str]
BLANK = re.compile(r"%\(\w+\)[-#0 +]*[\d.]*[a-zA-Z]|%%")
TAG = re.compile(r"</?[a-zA-Z][^>]*>")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
LETTER = re.compile(r"[A-Za-z]")

each_catalogue = pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.parts[-3])


def message_of(call: ast.Call) -> Message | None:
    """Return what a call asks to have translated; None for another call, or one whose words are not written there."""
    function = call.func
    name = (
        function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    )
    if name not in CALLS:
        return None
    context_at, at, _plural = CALLS[name]
    words = [arg.value if isinstance(arg, ast.Constant) and isinstance(arg.value, str) else None for arg in call.args]
    if len(words) <= at or not (text := words[at]):
        return None
    return (None if context_at is None else words[context_at], text)


def messages_in_python(source: str) -> Iterator[Message]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and (message := message_of(node)):
            yield message


def messages_in_template(source: str) -> Iterator[Message]:
    # Django turns a template into calls among blanked words; each call is read by itself.
    code = templatize(source)
    for start in re.finditer(r"\b(_|gettext|ngettext|pgettext|npgettext)\(", code):
        yield from messages_in_python(call_at(code, start.start()))


def call_at(code: str, start: int) -> str:
    """Return the whole call that starts there: up to the first closing bracket that makes it one."""
    for end in re.finditer(r"\)", code[start:]):
        call = code[start : start + end.end()]
        try:
            ast.parse(call)
        except SyntaxError:
            continue
        return call
    raise AssertionError(f"no call in {code[start : start + 80]!r}")


@pytest.fixture(scope="module")
def said() -> dict[Message, str]:
    """Every message of the project with a file that says it."""
    found: dict[Message, str] = {}
    for path in sorted((ROOT / "feedback_app").rglob("*.py")):
        found |= dict.fromkeys(messages_in_python(path.read_text(encoding="utf-8")), str(path.relative_to(ROOT)))
    for path in sorted((ROOT / "frontend" / "templates").rglob("*.html")):
        found |= dict.fromkeys(messages_in_template(path.read_text(encoding="utf-8")), str(path.relative_to(ROOT)))
    return found


def translation_of(entry: polib.POEntry) -> list[str]:
    return list(entry.msgstr_plural.values()) if entry.msgid_plural else [entry.msgstr]


def shown(entries: list[polib.POEntry]) -> list[str]:
    return [entry.msgid for entry in entries]


def test_the_scan_reads_calls_as_xgettext_does() -> None:
    template = (
        '{% load i18n %}<p title="{% translate "A (b)" %}">{% translate \'it\' context "c" %}</p>'
        "{% blocktranslate count n=n %}{{ n }} day{% plural %}{{ n }} days{% endblocktranslate %}{{ _('x')|upper }}"
    )
    assert set(messages_in_template(template)) == {(None, "A (b)"), ("c", "it"), (None, "%(n)s day"), (None, "x")}
    assert set(messages_in_python('_("a " "b"); ngettext("one", "%d", n); _(name); pgettext("c", "d")')) == {
        (None, "a b"), (None, "one"), ("c", "d"),
    }  # fmt: skip


def test_the_scan_finds_the_project(said: dict[Message, str]) -> None:
    assert len(said) > 1_000
    assert said[(None, "Guidelines")].startswith(("feedback_app/", "frontend/"))


def translated_at_import(tree: ast.Module) -> Iterator[int]:
    """Give the lines that translate before anybody reads, so in no reader's language."""
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "django.utils.translation"
        for alias in node.names
        if alias.name in CALLS and not alias.name.endswith(("_lazy", "_noop"))
    }
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield node.lineno
        later = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        waiting += [child for child in ast.iter_child_nodes(node) if not isinstance(child, later)]


def test_no_sentence_stands_inside_an_f_string_where_gettext_does_not_find_it() -> None:
    hidden = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "feedback_app").rglob("*.py"))
        for text in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(text, ast.JoinedStr)
        for node in ast.walk(text)
        if isinstance(node, ast.Call) and message_of(node)
    ]
    assert not hidden, f"xgettext reads no f-strings: {hidden}"


def test_what_is_said_at_import_waits_for_its_reader() -> None:
    example = ast.parse("from django.utils.translation import gettext as _\nWORDS = _('a')\ndef f(): return _('b')")
    assert list(translated_at_import(example)) == [2]
    eager = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "feedback_app").rglob("*.py"))
        for line in translated_at_import(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not eager, f"gettext_lazy is needed: {eager}"


@each_catalogue
def test_every_message_of_the_project_is_in_the_catalogue(path: Path, said: dict[Message, str]) -> None:
    known = {(entry.msgctxt, entry.msgid) for entry in polib.pofile(str(path))}
    new = [f"{file}: {message[1]!r}" for message, file in said.items() if message not in known]
    assert not new, f"{SAY}; not in {path.name}: {new}"


@each_catalogue
def test_the_catalogue_holds_nothing_that_no_page_says_any_more(path: Path, said: dict[Message, str]) -> None:
    gone = [entry.msgid for entry in polib.pofile(str(path)) if (entry.msgctxt, entry.msgid) not in said]
    assert not gone, f"{SAY}; nowhere said: {gone}"


@each_catalogue
def test_nothing_is_untranslated_fuzzy_or_obsolete(path: Path) -> None:
    po = polib.pofile(str(path))
    left = {
        "empty": shown(po.untranslated_entries()),
        "fuzzy": shown(po.fuzzy_entries()),
        "obsolete": shown(po.obsolete_entries()),
    }
    assert not any(left.values()), f"{SAY}: {left}"
    assert not po.metadata_is_fuzzy


@each_catalogue
def test_blanks_and_tags_stand_in_the_translation_too(path: Path) -> None:
    wrong = []
    for entry in polib.pofile(str(path)):
        source = entry.msgid_plural or entry.msgid
        for text in translation_of(entry):
            same_blanks = set(BLANK.findall(source)) == set(BLANK.findall(text))
            if not same_blanks or Counter(TAG.findall(source)) != Counter(TAG.findall(text)):
                wrong.append((source, text))
    assert not wrong


@each_catalogue
def test_the_compiled_catalogue_is_the_written_one(path: Path) -> None:
    written, compiled = polib.pofile(str(path)), polib.mofile(str(path.with_suffix(".mo")))
    of_file = [{(e.msgctxt, e.msgid): translation_of(e) for e in file} for file in (written, compiled)]
    assert of_file[0] == of_file[1], SAY
    # The time of extraction is left out by msgfmt; the rule for plurals is what must not differ.
    assert compiled.metadata["Plural-Forms"] == written.metadata["Plural-Forms"], SAY


# What Chinese readers know by these letters: names, formats, signs.
NAMES = {
    "%(n).0f MiB", "%(n).1f GiB", "API", "Markdown", "Manifest", "PPO", "Top p", "UTC", "token", "nats a response",
    "nats a token", "vLLM", "tokens",
}  # fmt: skip


def test_no_english_is_left_in_chinese_by_oversight() -> None:
    po = polib.pofile(str(LANGUAGES_DIR / "zh_Hans" / "LC_MESSAGES" / "django.po"))
    left = {
        entry.msgid
        for entry in po
        if not CHINESE.search(BLANK.sub("", "".join(translation_of(entry))))
        and LETTER.search(TAG.sub("", BLANK.sub("", entry.msgid)))
    }
    assert left <= NAMES, left - NAMES


def test_a_language_is_there_by_its_catalogue(tmp_path: Path) -> None:
    assert [code for code, _name in settings.LANGUAGES] == ["en", "zh-hans"]
    (tmp_path / "pt_BR" / "LC_MESSAGES").mkdir(parents=True)
    assert [code for code, _name in available_languages(tmp_path)] == ["en"], "not compiled yet"
    (tmp_path / "pt_BR" / "LC_MESSAGES" / "django.mo").touch()
    assert [code for code, _name in available_languages(tmp_path)] == ["en", "pt-br"]
