"""The words of a text as the search knows them, in scripts with spaces and without.

PostgreSQL's trigrams and its simple parser find nothing in Chinese, nor words of two characters: so the application
makes the tokens. Scripts without spaces give every character and every two neighbours, others whole words.
"""

import re
import unicodedata

# Han, kana, bopomofo, hangul syllables, Thai, Lao, Myanmar and Khmer: no spaces between words.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3100-\u312f\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUNS = re.compile(rf"[{_UNSPACED}]+|[^\W{_UNSPACED}]+")
_STARTS_UNSPACED = re.compile(rf"[{_UNSPACED}]")
# Nobody looks for more of a word, and an index entry has a size.
LONGEST_WORD = 64


def runs_of(text: str) -> list[str]:
    """Return a text's words, and its runs of characters without spaces, folded: NFKC, and no difference of case."""
    return [run[: LONGEST_WORD * 16] for run in _RUNS.findall(unicodedata.normalize("NFKC", text).casefold())]


def is_unspaced(run: str) -> bool:
    """Say whether a run is of a script that has no spaces."""
    return _STARTS_UNSPACED.match(run) is not None


def tokens_of(text: str) -> set[str]:
    """Return what a text is found by."""
    found: set[str] = set()
    for run in runs_of(text):
        if is_unspaced(run):
            found.update(run)
            found.update(run[place : place + 2] for place in range(len(run) - 1))
        else:
            found.add(run[:LONGEST_WORD])
    return found


def query_tokens(text: str) -> set[str]:
    """Return what a searched text asks for; of a run without spaces its pairs say all that its characters do."""
    wanted: set[str] = set()
    for run in runs_of(text):
        if is_unspaced(run) and len(run) > 1:
            wanted.update(run[place : place + 2] for place in range(len(run) - 1))
        else:
            wanted.add(run[:LONGEST_WORD])
    return wanted


def exact_runs(text: str) -> list[str]:
    """Return the runs of three and more characters without spaces: pairs find them scattered too, so look again."""
    return [run for run in runs_of(text) if is_unspaced(run) and len(run) > 2]
