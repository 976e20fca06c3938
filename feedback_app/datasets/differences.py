"""What two dataset versions do not have in common, row by row, in 16 bytes of memory a row."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import numpy.typing
import pyarrow.parquet

from feedback_app.datasets.exporting.options import SPLITS
from feedback_app.datasets.models import DatasetVersion
from feedback_app.datasets.services.held import HELD_JUDGMENTS
from feedback_app.datasets.services.versions import folder_of, split_files

# So many ids of each kind are named; all are counted.
NAMED = 20
COUNTS = ("tasks", "judgments", "simulated_judgments", "annotators", "protocol_versions", "guidelines_versions",
          "policies", "newest_policy", "agreement", "code_version")  # fmt: skip
_Digests = numpy.typing.NDArray[numpy.uint64]


def diff_versions(*, version: DatasetVersion, against: DatasetVersion) -> dict[str, Any]:
    """Return what changed from against to version: options, counts, judgments, and rows added, removed or changed.

    A row is known by its id; changed is one that says something else, or stands in another split. Rows are None where
    the formats differ or the files of one are withdrawn.
    """
    report: dict[str, Any] = {
        "version": version.number,
        "against": against.number,
        "equal": version.content_sha256 == against.content_sha256,
        "options": _changed(against.options, version.options),
        "counts": _changed(*({name: v.manifest.get(name) for name in COUNTS} for v in (against, version))),
        "splits": {
            split: {"before": against.manifest["rows"].get(split, 0), "after": version.manifest["rows"].get(split, 0)}
            for split in SPLITS
        },
        "judgments": None,
        "rows": None,
    }
    if against.format != version.format:
        report["options"]["format"] = {"before": against.format, "after": version.format}
    if version.withdrawn_at is None and against.withdrawn_at is None:
        before, after = _held(against), _held(version)
        report["judgments"] = {
            "added": int((~numpy.isin(after, before)).sum()),
            "removed": int((~numpy.isin(before, after)).sum()),
        }
        if against.format == version.format:
            report["rows"] = _compare_rows(against, version)
    return report


def _changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {"before": before.get(name), "after": after.get(name)}
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    }


def _held(version: DatasetVersion) -> _Digests:
    """Return the first halves of the ids of the judgments in a version: random enough to tell them apart."""
    held = numpy.fromfile(folder_of(version) / HELD_JUDGMENTS, dtype=numpy.uint64)
    return numpy.unique(held[::2])


def _compare_rows(against: DatasetVersion, version: DatasetVersion) -> dict[str, Any]:
    (old, old_content), (new, new_content) = _digests(against), _digests(version)
    shared, at_old, at_new = numpy.intersect1d(old, new, return_indices=True)
    differs = shared[old_content[at_old] != new_content[at_new]]
    added, removed = new[~numpy.isin(new, old)], old[~numpy.isin(old, new)]
    return {
        "added": len(added),
        "removed": len(removed),
        "changed": len(differs),
        "same": len(shared) - len(differs),
        "added_ids": _named(version, added),
        "removed_ids": _named(against, removed),
        "changed_ids": _named(version, differs),
    }


def _digests(version: DatasetVersion) -> tuple[_Digests, _Digests]:
    """Return a digest of each row's id, and one of all it says and its split."""
    pairs = numpy.fromiter(
        (
            digest
            for split, row in _rows(version)
            for digest in (_digest(row_id(row)), _digest(split + json.dumps(_said(row), sort_keys=True)))
        ),
        dtype=numpy.uint64,
    )
    return pairs[::2], pairs[1::2]


def _said(row: dict[str, Any]) -> dict[str, Any]:
    # A typed file has a null where a line leaves a column out.
    return {name: value for name, value in row.items() if value is not None}


def row_id(row: dict[str, Any]) -> str:
    """Return what a row is known by in every version."""
    return str(row.get("id") or row.get("message_tree_id"))


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest())


def _named(version: DatasetVersion, digests: _Digests) -> list[str]:
    """Return the first ids among the digests, in the order of the files."""
    if not len(digests):
        return []
    wanted = set(digests[: NAMED * 50].tolist())
    names: list[str] = []
    for _split, row in _rows(version):
        if _digest(row_id(row)) in wanted:
            names.append(row_id(row))
            if len(names) == NAMED:
                break
    return names


def _rows(version: DatasetVersion) -> Iterator[tuple[str, dict[str, Any]]]:
    for split, path in sorted(split_files(version).items()):
        for row in _rows_of(path):
            yield split, row


def _rows_of(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1000):
            yield from batch.to_pylist()
        return
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield json.loads(line)
