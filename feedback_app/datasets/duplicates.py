"""Prompts that are nearly the same: they make a training set smaller than it looks, and a test set known beforehand."""

import zlib
from collections.abc import Iterator
from typing import Any

from datasketch import MinHash, MinHashLSH

from feedback_app.annotation.models import Prompt
from feedback_app.datasets.tokens import is_unspaced, runs_of
from feedback_app.projects.models import Project

PERMUTATIONS = 64
SHINGLE = 3
NAMED = 200
# Of a template that thousands of prompts fill in, the first few neighbours tell enough.
MOST_NEIGHBOURS = 20
MOST_PROMPTS = 200_000
SHOWN = 200


def find_duplicates(*, project: Project, threshold: float = 0.8, most: int = MOST_PROMPTS) -> dict[str, Any]:
    """Return the pairs of a project's prompts that share so much of their three-word shingles (Jaccard), widest first.

    contaminated are those of two splits. Candidates are found by MinHash; each pair's similarity is exact. Pairs are
    all counted, the first named; of more than most prompts the newest are looked at.
    """
    # Candidates by a lower bar: what MinHash guesses a little too low is measured, not missed.
    lsh = MinHashLSH(threshold=0.9 * threshold, num_perm=PERMUTATIONS)
    shingles: dict[str, frozenset[int]] = {}
    about: dict[str, tuple[str, str]] = {}
    pairs: list[tuple[float, str, str]] = []
    for key, split, text in _prompts(project, most):
        hashes = frozenset(zlib.crc32(shingle.encode()) for shingle in shingles_of(text))
        if not hashes:
            continue
        minhash = MinHash(num_perm=PERMUTATIONS, hashfunc=int)
        minhash.update_batch(list(hashes))
        for other in sorted(lsh.query(minhash))[:MOST_NEIGHBOURS]:
            similarity = len(hashes & shingles[other]) / len(hashes | shingles[other])
            if similarity >= threshold:
                pairs.append((round(similarity, 4), other, key))
        lsh.insert(key, minhash, check_duplication=False)
        shingles[key], about[key] = hashes, (split, text[:SHOWN])
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    across = [pair for pair in pairs if about[pair[1]][0] != about[pair[2]][0]]
    return {
        "threshold": threshold,
        "prompts": len(about),
        "in_pairs": len({key for _, *keys in pairs for key in keys}),
        "pairs_total": len(pairs),
        "pairs": [_named(pair, about) for pair in pairs[:NAMED]],
        "contaminated_total": len(across),
        "contaminated": [_named(pair, about) for pair in across[:NAMED]],
    }


def shingles_of(text: str) -> set[str]:
    """Return every three neighbouring words of a text, or characters where its script has no spaces between words."""
    units = [unit for run in runs_of(text) for unit in (run if is_unspaced(run) else [run])]
    last = max(1, len(units) - SHINGLE + 1)
    return {" ".join(units[place : place + SHINGLE]) for place in range(last)} if units else set()


def _prompts(project: Project, most: int) -> Iterator[tuple[str, str, str]]:
    newest = Prompt.objects.filter(project=project).order_by("-created_at", "pk")[:most]
    for key, split, messages in newest.values_list("pk", "split", "messages").iterator(1000):
        yield str(key), split, "\n".join(message["content"] for message in messages if message["role"] != "system")


def _named(pair: tuple[float, str, str], about: dict[str, tuple[str, str]]) -> dict[str, Any]:
    similarity, *keys = pair
    return {
        "similarity": similarity,
        "prompts": [{"id": key, "split": about[key][0], "text": about[key][1]} for key in keys],
    }
