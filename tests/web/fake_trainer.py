"""A trainer's command line without its learning: it writes what a stage leaves behind, in a moment and without torch.

A recipe's launcher names this file, so that everything around the trainer is real: the process, its config, its files.
FAKE_METRICS and FAKE_EXIT are JSON: of each stage, the metrics that it reports and the code it ends with, or as -N the
signal that ends it. FAKE_ONCE set, a trainer that resumes ends well.
"""

import argparse
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from training.records import MANIFEST, file_sha256


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", dest="module")
    parser.add_argument("stage")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    config = tomllib.loads(given.config.read_text())
    output: Path = given.output
    (output / "checkpoints").mkdir(parents=True, exist_ok=True)
    (output / "config.toml").write_text(given.config.read_text())
    (output / "checkpoints" / "000001.pt").write_bytes(b"half")
    with (output / "progress.jsonl").open("w") as progress:
        progress.write(json.dumps({"update": 1, "updates": 1, "resumed": given.resume}) + "\n")
    code = json.loads(os.environ.get("FAKE_EXIT", "{}")).get(given.stage, 0)
    if code and not (given.resume and "FAKE_ONCE" in os.environ):
        if code < 0:
            os.kill(os.getpid(), -code)
        print(f"{given.stage}: told to fail")
        sys.exit(code)
    finish(given.stage, output, config, json.loads(os.environ.get("FAKE_METRICS", "{}")).get(given.stage, {}))


def finish(stage: str, output: Path, config: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Leave in a directory what a stage leaves."""
    (output / "model").mkdir(exist_ok=True)
    (output / "model" / "config.json").write_text(json.dumps({"made_by": str(output)}))
    canary = {"max_new_tokens": 1, "prompts": [{"inputs": "Hello", "tokens": [7], "logprobs": [-0.1]}]}
    (output / "canary.json").write_text(json.dumps(canary))
    (output / "metrics.json").write_text(json.dumps(metrics))
    if stage == "evaluate":
        asked = Path(config["prompts"]).read_text().splitlines()
        (output / "samples.jsonl").write_text("".join(map(_sample, asked)))
    files = {
        str(path.relative_to(output)): {"size": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(output.rglob("*"))
        if path.is_file()
    }
    manifest = {
        "stage": stage, "files": files, "parents": {}, "data_sha256": {}, "config_sha256": "", "versions": {},
    }  # fmt: skip
    (output / MANIFEST).write_text(json.dumps(manifest))


def _sample(line: str) -> str:
    """Return what both policies say to a prompt: whole and different, but for prompts that say otherwise."""
    row = json.loads(line)
    asked = row["prompt"][-1]["content"]
    answers = {"policy": f"Fresh words, which {asked} was given.", "parent": f"It is {asked} that somebody has said."}
    if "alike" in asked:
        answers["policy"] = answers["parent"]
    ended = {"ended_policy": "cut" not in asked, "ended_parent": "both cut" not in asked}
    return json.dumps({**row, "seed": 7, **answers, **ended, "tokens_policy": 5, "tokens_parent": 6}) + "\n"


if __name__ == "__main__":
    main()
