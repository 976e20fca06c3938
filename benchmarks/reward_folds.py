"""Reward accuracy on prompts never seen, grouped k-fold, beside the rule of length and another trainer.

    python benchmarks/reward_folds.py PAIRS.jsonl [--model var/models/base] [--folds 5] [--peer "PYTHON FILE"]

PAIRS.jsonl is a preference export with --split all. A fold's prompts are held out by a hash; ours trains with its
defaults, and splits its own validation off the rest. A peer (benchmarks/reward_peer_trl.py, in its own environment) is
called as COMMAND MODEL TRAIN HELD, trains on the same rows and prints {"differences": [chosen less rejected of each
held pair]}. Accuracies are over all folds' held pairs, intervals and the paired difference by a bootstrap over prompts.
Prints a JSON line a fold and one of all. With --store FILE each fold is kept there as it ends; a later call goes on.
"""

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from training.accuracy import longer_wins
from training.records import PreferenceRow, read_judged
from training.rewards import load_reward
from training.statistics import mean_interval

ROOT = Path(__file__).resolve().parent.parent


def fold_of(prompt_id: str, folds: int) -> int:
    """Return the fold that a prompt is held out in."""
    return int.from_bytes(hashlib.sha256(f"fold {prompt_id}".encode()).digest()[:8], "big") % folds


def ours(folder: Path, model: str, train: Path, held: list[PreferenceRow], settings: list[str]) -> list[float]:
    """Train our reward model; return how much higher it scores each held pair's chosen answer."""
    config = folder / "empty.toml"
    config.write_text("", encoding="utf-8")
    command = [sys.executable, "-W", "ignore", "-m", "training", "reward", "--config", str(config),
               "--output", str(folder / "ours"), f"--set=model={model}", f"--set=train={train}"]  # fmt: skip
    subprocess.run([*command, *(f"--set={s}" for s in settings)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    judge = load_reward(str(folder / "ours"), "auto")
    sides: list[list[float]] = []
    for answers in ([row.chosen for row in held], [row.rejected for row in held]):
        # Of dialogues whose answer is one message, which a reward takes as prompt and text.
        sides.append(judge([row.prompt for row in held], [answer[-1]["content"] for answer in answers]))
    return [chosen - rejected for chosen, rejected in zip(*sides, strict=True)]


def theirs(command: str, model: str, train: Path, held: Path) -> list[float]:
    """Return the same of the peer."""
    called = [*shlex.split(command), model, str(train), str(held)]
    ended = subprocess.run(called, check=True, stdout=subprocess.PIPE, text=True)
    differences: list[float] = json.loads(ended.stdout.strip().splitlines()[-1])["differences"]
    return differences


def right(differences: list[float]) -> list[float]:
    """Return 1 for each pair that is ordered as the annotators did, 0.5 where both score the same."""
    return [0.5 if d == 0 else float(d > 0) for d in differences]


def told(values: list[float], groups: list[str]) -> dict[str, float]:
    """Return a mean with its 95 % interval, over prompts."""
    mean, low, high = mean_interval(values, groups, draws=4000)
    return {"mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4)}


def _stored(store: Path | None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.read_text(encoding="utf-8")) if store and store.exists() else {}
    return found


def hold_out(fold: int, lines: list[str], rows: list[Any], args: argparse.Namespace) -> dict[str, Any]:
    """Train on all folds but one; return the prompts of its pairs, and by judge whether each pair is ordered right."""
    is_held = [fold_of(row.prompt_id, args.folds) == fold for row in rows]
    held = [row for row, here in zip(rows, is_held, strict=True) if here]
    with tempfile.TemporaryDirectory(prefix=f"fold-{fold}-") as temporary:
        folder = Path(temporary)
        for name, wanted in (("train", False), ("held", True)):
            kept = [line for line, here in zip(lines, is_held, strict=True) if here is wanted]
            (folder / f"{name}.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
        train = folder / "train.jsonl"
        seen = {
            "ours": right(ours(folder, args.model, train, held, args.set)),
            "longer": [longer_wins(row) for row in held],
        }
        if args.peer:
            seen["peer"] = right(theirs(args.peer, args.model, train, folder / "held.jsonl"))
    return {"groups": [row.prompt_id for row in held], "seen": seen}


def main() -> None:
    """Hold each fold out in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--model", default=str(ROOT / "var" / "models" / "base"))
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--peer", default="")
    parser.add_argument("--store", type=Path, metavar="FILE")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="of our reward config")
    args = parser.parse_args()
    lines = [line for line in args.pairs.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows: list[Any] = list(read_judged(str(args.pairs)))
    done = _stored(args.store)
    for fold in range(args.folds):
        if str(fold) not in done:
            done[str(fold)] = hold_out(fold, lines, rows, args)
            if args.store:
                args.store.write_text(json.dumps(done), encoding="utf-8")
        found = done[str(fold)]
        report = {name: round(sum(values) / len(values), 4) for name, values in found["seen"].items()}
        print(json.dumps({"fold": fold, "pairs": len(found["groups"]), **report}), flush=True)
    groups = [group for found in done.values() for group in found["groups"]]
    seen = {name: [v for found in done.values() for v in found["seen"][name]] for name in done["0"]["seen"]}
    result = {name: told(values, groups) for name, values in seen.items()}
    for name in seen:
        if name != "ours":
            gaps = [mine - other for mine, other in zip(seen["ours"], seen[name], strict=True)]
            result[f"ours_less_{name}"] = told(gaps, groups)
    print(json.dumps({"pairs": len(groups), "prompts": len(set(groups)), **result}))


if __name__ == "__main__":
    main()
