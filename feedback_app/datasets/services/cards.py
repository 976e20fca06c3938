"""The card of a dataset version: what Hugging Face shows of a folder, and what tells load_dataset its splits."""

import json
from typing import Any

CARD = "README.md"


def write_card(manifest: dict[str, Any]) -> str:
    """Return the card's Markdown; the lines between --- are what load_dataset reads."""
    suffix = manifest["file_type"]
    splits = "\n".join(f"      - split: {split}\n        path: {split}.{suffix}" for split in manifest["rows"])
    counts = "\n".join(
        f"| {split} | {rows} | {manifest['prompts'][split]} |" for split, rows in manifest["rows"].items()
    )
    chosen = {name: value for name, value in manifest["options"].items() if value not in ("", [], {}, 0, 0.0, False)}
    return f"""---
configs:
  - config_name: default
    data_files:
{splits}
tags:
  - rlhf
  - {manifest["format"]}
---
# {manifest["project"]}, dataset version {manifest["number"]}

{manifest["judgments"]} judgments by {manifest["annotators"]} annotators on {manifest["tasks"]} tasks, as
{manifest["format"]} rows. A prompt stands in one split for ever.

| split | rows | prompts |
|---|---|---|
{counts}

- Answers by: {", ".join(f"{name} ({count} tasks)" for name, count in manifest["policies"].items())}
- Judged under protocol {manifest["protocol_versions"]}, guidelines {manifest["guidelines_versions"]}
- Simulated judgments among them: {manifest["simulated_judgments"]}
- Rules: `{json.dumps(chosen, ensure_ascii=False)}`
- Content: sha256 `{manifest["content_sha256"]}`; made by version {manifest["code_version"]} of the code
"""
