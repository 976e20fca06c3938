"""Turn PandaLM's human-annotated test set into judged rows, as `import_data --format judged` reads them.

    python benchmarks/pandalm_rows.py testset-v1.json > rows.jsonl

The file is WeOpenML/PandaLM's data/testset-v1.json (Apache-2.0): an array whose rows carry an instruction, an input,
two responses, the two models as `cmp_key`, and the verdicts of three annotators: 1, 2, or 0 for a tie. Rows that are
dirty (a response that is not a string) are written as they are: refusing them, by line, is the import's business.
"""

import json
import sys
from pathlib import Path
from typing import Any

RANKINGS = {1: [[0], [1]], 2: [[1], [0]], 0: [[0, 1]]}


def judged_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return one comparison as a judged row; an input follows its instruction after an empty line."""
    first, second = row["cmp_key"].split("_", 1)
    prompt = f"{row['instruction']}\n\n{row['input']}" if row.get("input") else row["instruction"]
    verdicts = {name: row[name] for name in ("annotator1", "annotator2", "annotator3") if name in row}
    return {
        "external_id": f"pandalm-{row['idx']}-{row['cmp_key']}",
        "prompt": prompt,
        "responses": [
            {"text": row["response1"], "model": first},
            {"text": row["response2"], "model": second},
        ],
        "judgments": [{"annotator": name, "ranking": RANKINGS[int(verdict)]} for name, verdict in verdicts.items()],
    }


if __name__ == "__main__":
    for row in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        print(json.dumps(judged_row(row), ensure_ascii=False))
