"""The card of a dataset version: what Hugging Face shows of a folder, and what tells load_dataset its splits."""

import json
import re
from typing import Any

from feedback_app.datasets.exporting.options import SPLITS

CARD = "README.md"
# Hugging Face's size categories, and what it takes for a language's tag.
SIZES = (
    (1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"),
)  # fmt: skip
LARGEST = "n>10M"
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")
# What Markdown or HTML reads as more than a letter inside of a line, and where Hugging Face sees an address by itself.
MARKS = re.compile(r"[\\`*_\[\]<>&!~|$:]|(?<=www)\.", re.IGNORECASE)
# What ends a line, turns the reading round or is not seen: no part of a name that is shown.
UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")


def write_card(manifest: dict[str, Any]) -> str:
    """Return the card's Markdown; the lines between --- are what load_dataset reads."""
    suffix, rows = manifest["file_type"], manifest["rows"]
    held = [split for split in SPLITS if split in rows]  # JSON in PostgreSQL keeps no order
    splits = "\n".join(f"      - split: {split}\n        path: {split}.{suffix}" for split in held)
    counts = "\n".join(f"| {split} | {rows[split]} | {manifest['prompts'][split]} |" for split in held)
    total = sum(rows.values())
    size = next((name for most, name in SIZES if total < most), LARGEST)
    # Quoted, for YAML takes Norwegian's "no" for false.
    languages = "".join(f'\n  - "{name}"' for name in manifest.get("languages", {}) if LANGUAGE.fullmatch(name))
    agreement = manifest.get("agreement", {})
    agreed = (
        f"{agreement['share']:.1%} of {agreement['compared']} comparisons of two annotators' verdicts"
        if agreement.get("share") is not None
        else "nothing was judged twice"
    )
    options = sorted(manifest["options"].items())
    chosen = {name: value for name, value in options if value not in ("", [], {}, 0, 0.0, False)}
    return f"""---
pretty_name: {json.dumps(f"{manifest['project']}, dataset version {manifest['number']}", ensure_ascii=False)}
{f"language:{languages}" if languages else "language: []"}
size_categories:
  - {size}
configs:
  - config_name: default
    data_files:
{splits}
tags:
  - rlhf
  - {manifest["format"]}
---
# {manifest["project"]}, dataset version {manifest["number"]}

{manifest["judgments"]} judgments by {manifest["annotators"]} annotators on {manifest["tasks"]} tasks, \
as {manifest["format"]} rows. A prompt stands in one split for ever.

| split | rows | prompts |
|---|---|---|
{counts}

- Answers by: {", ".join(f"{_shown(name)} ({count} tasks)" for name, count in sorted(manifest["policies"].items()))}
- Judged under {_versions("protocol", manifest)}, {_versions("guidelines", manifest)}
- Agreement: {agreed}
- Simulated judgments among them: {manifest["simulated_judgments"]}
- Rules: {_as_code(json.dumps(chosen, ensure_ascii=False))}
- Content: sha256 `{manifest["content_sha256"]}`; made by version {manifest["code_version"]} of the code

```python
from datasets import load_dataset

splits = load_dataset("path/to/this/folder")
```
"""


def _versions(of: str, manifest: dict[str, Any]) -> str:
    numbers = manifest[f"{of}_versions"]
    return f"{of} version {', '.join(map(str, numbers))}" if numbers else f"no {of}"


def _shown(name: str) -> str:
    """Return what a stranger called something as Markdown that shows it and does nothing.

    By numbers, for not every Markdown takes a backslash before every mark.
    """
    return MARKS.sub(lambda mark: f"&#{ord(mark[0])};", UNSEEN.sub(" ", name))


def _as_code(text: str) -> str:
    """Return text as code; longer fences than any run of backticks in it, as CommonMark (0.31.2, 6.1) has it."""
    text = UNSEEN.sub(" ", text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"
