"""How much of an answer is what was expected: SQuAD's exact match and F1, and ROUGE, with Chinese read by character."""

import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence

# Written without spaces, so that each character counts as a word: Han, and the kana of Japanese.
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_UNSPACED = re.compile(f"([{UNSPACED}])")
# As rouge-score takes words of English (runs of letters and digits), in any script.
_WORD = re.compile(f"[{UNSPACED}]|(?:(?![{UNSPACED}])[^\\W_])+")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
# SQuAD strips ASCII's punctuation; other scripts have their own (as in MLQA's script, arXiv:1910.07475).
_PUNCTUATION = dict.fromkeys(
    [code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)).startswith("P")]
    + [ord(character) for character in string.punctuation]
)


def normalise_answer(text: str) -> str:
    """Return an answer as SQuAD compares it: lower case, without punctuation, articles and surplus spaces."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", bare).split())


def exact_match(answer: str, accepted: Sequence[str]) -> float:
    """Return 1 where an answer is one of the accepted ones, as SQuAD 2 has it; "" accepts nothing but no answer."""
    said = normalise_answer(answer)
    return float(any(said == normalise_answer(one) for one in _expected(accepted)))


def answer_f1(answer: str, accepted: Sequence[str]) -> float:
    """Return the best F1 of an answer's words against an accepted one's, as SQuAD 2 has it."""
    return max(_word_f1(_answer_words(answer), _answer_words(one)) for one in _expected(accepted))


def _expected(accepted: Sequence[str]) -> list[str]:
    """Return the accepted answers that say something, or the empty one where none does: the question has no answer."""
    return [one for one in accepted if normalise_answer(one)] or [""]


def _answer_words(text: str) -> list[str]:
    return _UNSPACED.sub(r" \1 ", normalise_answer(text)).split()


def _word_f1(ours: Sequence[str], theirs: Sequence[str]) -> float:
    if not ours or not theirs:
        return float(list(ours) == list(theirs))
    return _f1((Counter(ours) & Counter(theirs)).total(), len(ours), len(theirs))


def rouge_scores(text: str, reference: str) -> dict[str, float]:
    """Return F1 by words, by pairs of words and by the longest common subsequence (Lin 2004), without stemming."""
    ours, theirs = (_WORD.findall(side.lower()) for side in (text, reference))
    return {
        "rouge1": _ngram_f1(ours, theirs, 1),
        "rouge2": _ngram_f1(ours, theirs, 2),
        "rougeL": _f1(_longest_common(ours, theirs), len(ours), len(theirs)),
    }


def _ngram_f1(ours: Sequence[str], theirs: Sequence[str], n: int) -> float:
    first, second = (Counter(zip(*(side[i:] for i in range(n)), strict=False)) for side in (ours, theirs))
    return _f1((first & second).total(), first.total(), second.total())


def _longest_common(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, row by row of the usual table."""
    above = [0] * (len(theirs) + 1)
    for word in ours:
        row = [0]
        for index, other in enumerate(theirs):
            row.append(above[index] + 1 if word == other else max(above[index + 1], row[index]))
        above = row
    return above[-1]


def _f1(shared: int, ours: int, theirs: int) -> float:
    """Return the harmonic mean of shared/ours and shared/theirs; 0 where nothing is shared."""
    return 2 * shared / (ours + theirs) if shared else 0.0
