"""Raw text made fit to learn from: markup gone, Unicode in one form, what was said already dropped."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.records import DataError, read_lines

# Elements whose content is no text, and those that end a line where a browser would.
UNREAD = frozenset({"script", "style", "template", "noscript", "svg", "head"})
BLOCKS = frozenset(
    {"address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figure", "footer", "form", "h1", "h2",
     "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section", "table", "td", "th",
     "tr", "ul"}
)  # fmt: skip
# Something that opens or closes a tag, a comment or an entity; a lone "<" in prose or code is left alone.
MARKUP = re.compile(r"</?[a-zA-Z][^<>]*>|<!--|&(?:#\d+|#x[0-9a-fA-F]+|[a-zA-Z]{2,8});")
SHINGLE = 5  # words
HASHES, BANDS = 64, 16
_PRIME = (1 << 61) - 1


def read_texts(path: str | Path) -> list[str]:
    """Read documents: {"text"} lines of a .jsonl file, or what stands between blank lines of any other.

    Raises:
        DataError: names the file and the line, or that there is nothing.
    """
    path = Path(path)
    if path.suffix == ".jsonl":
        texts = []
        for number, row in read_lines(path):
            if not isinstance(row.get("text"), str):
                raise DataError(f"{path}:{number}: text: a text is needed")
            texts.append(row["text"])
    else:
        try:
            texts = re.split(r"\n[ \t]*\n", path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8: {error}") from error
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise DataError(f"{path}: no text")
    return texts


def clean_texts(texts: Iterable[str], *, near_duplicates: float) -> list[str]:
    """Return texts without markup, in NFC, each said once; what is empty then is left out.

    near_duplicates: the share of common five-word shingles from which the later of two texts is dropped; 0 keeps all.
    """
    cleaned = [text for text in map(normalise, map(strip_html, texts)) if text]
    return drop_near_duplicates(cleaned, near_duplicates) if near_duplicates else cleaned


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.unread: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in UNREAD:
            self.unread.append(tag)
        elif tag in BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.unread:
            del self.unread[self.unread.index(tag) :]
        elif tag in BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.unread:
            self.parts.append(data)


def strip_html(text: str) -> str:
    """Return what a reader of the page would see; a text without tags, comments or entities comes back as it is."""
    if not MARKUP.search(text):
        return text
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return "".join(reader.parts)


def normalise(text: str) -> str:
    """Return a text in NFC, without control characters, with single spaces and at most one blank line in a row."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs", "Co"))
    lines = (re.sub(r"[ \t\u00a0]+", " ", line).strip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def drop_near_duplicates(texts: Sequence[str], threshold: float) -> list[str]:
    """Return texts less those whose Jaccard similarity to an earlier kept one reaches the threshold.

    Candidates are found by MinHash in bands (Broder 1997; Leskovec et al., "Mining of Massive Datasets", 3.4), and
    compared exactly: what is dropped is a near duplicate for certain.
    """
    kept: list[str] = []
    shingles: list[frozenset[int]] = []
    buckets: dict[tuple[int, bytes], list[int]] = {}
    for text in texts:
        own = _shingles(text)
        keys = list(_band_keys(own))
        candidates = {index for key in keys for index in buckets.get(key, ())}
        if any(len(own & shingles[i]) >= threshold * len(own | shingles[i]) for i in candidates):
            continue
        for key in keys:
            buckets.setdefault(key, []).append(len(kept))
        kept.append(text)
        shingles.append(own)
    return kept


def _shingles(text: str) -> frozenset[int]:
    """Return hashes of every run of five words; of a text with fewer, or without spaces, of every five letters."""
    words = re.findall(r"\w+", text.casefold())
    if len(words) < SHINGLE:
        letters = "".join(words) or text
        runs = [letters[i : i + SHINGLE] for i in range(max(1, len(letters) - SHINGLE + 1))]
    else:
        runs = [" ".join(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)]
    return frozenset(int.from_bytes(hashlib.blake2b(run.encode(), digest_size=7).digest(), "big") for run in runs)


def _permutations() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    generator = np.random.default_rng(0)
    first = generator.integers(1, 1 << 32, HASHES, dtype=np.uint64)
    second = generator.integers(0, 1 << 32, HASHES, dtype=np.uint64)
    return first, second


_A, _B = _permutations()


def _band_keys(shingles: frozenset[int]) -> Iterator[tuple[int, bytes]]:
    values_N = np.fromiter(shingles, dtype=np.uint64) & np.uint64(0xFFFFFFFF)
    signature_H = ((_A[:, None] * values_N[None, :] + _B[:, None]) % np.uint64(_PRIME)).min(axis=1)
    for band, rows in enumerate(np.split(signature_H, BANDS)):
        yield band, rows.tobytes()
