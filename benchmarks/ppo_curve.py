"""PPO on a real small model with a callable reward: the reward against KL and against minutes, seed by seed.

    pip install vaderSentiment
    python benchmarks/ppo_curve.py [--model var/models/base] [--seeds 0 1 2] [--updates 25] [--set key=value ...]

The reward is how cheerful VADER (a lexicon, Hutto and Gilbert 2014) finds a response: from -1 to 1, and cheap, so that
the time is PPO's own. The prompts are those of the English example project. Each seed is a run of the command line in
a directory of its own, and goes on where it was stopped. Prints a JSON line a seed and one of all; the curves stay in
DIRECTORY/seed-N/progress.jsonl.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = ROOT / "feedback_app" / "projects" / "seeds" / "english.json"
# Settings of all seeds; whatever else there is stays as users get it.
SETTINGS = {"rollout_batch": "32", "response_length": "40", "reward": "benchmarks.ppo_curve:cheerfulness"}
ENDS = 5  # updates that the first and the last mean are taken over


@cache
def _analyser() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def cheerfulness(messages: list[list[dict[str, str]]], responses: list[str]) -> list[float]:
    """Return VADER's compound score of each response, from -1 to 1."""
    return [float(_analyser().polarity_scores(response)["compound"]) for response in responses]


def write_prompts(path: Path) -> None:
    """Write the English example's prompts as a trainer reads them."""
    prompts = json.loads(PROMPTS.read_text(encoding="utf-8"))["prompts"]
    lines = [
        {"prompt": [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt} for prompt in prompts
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def run_seed(folder: Path, model: str, seed: int, updates: int, settings: dict[str, str]) -> dict[str, Any]:
    """Train with one seed; return its curve and what it comes to."""
    output = folder / f"seed-{seed}"
    config = folder / "empty.toml"
    config.write_text("", encoding="utf-8")
    values = {"policy": model, "prompts": str(folder / "prompts.jsonl"), "updates": str(updates), "seed": str(seed)}
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "training",
        "ppo",
        "--config",
        str(config),
        "--output",
        str(output),
    ]
    for key, value in (values | settings).items():
        command += ["--set", f"{key}={value}"]
    subprocess.run([*command, "--resume"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (output / "progress.jsonl").read_text(encoding="utf-8").splitlines()]
    return summary(seed, lines)


def summary(seed: int, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return [minute, score, KL, entropy, length] after each update, with the means at both ends and the best."""
    minutes, curve = 0.0, []
    for line in lines:
        curve.append([
            round(minutes, 2), round(line["objective/scores"], 3), round(line["objective/kl"], 2),
            round(line["objective/entropy"], 2), round(line["response/length"], 1),
        ])  # fmt: skip
        minutes += (line["time/rollout_s"] + line["time/update_s"]) / 60
    scores = [point[1] for point in curve]
    return {
        "seed": seed,
        "minutes": round(minutes, 1),
        "score_first": round(statistics.mean(scores[:2]), 3),
        "score_last": round(statistics.mean(scores[-ENDS:]), 3),
        "score_best_mean": round(max(statistics.mean(scores[i : i + ENDS]) for i in range(len(scores) - ENDS + 1)), 3),
        "kl_last": curve[-1][2],
        "curve": curve,
    }


def main() -> None:
    """Run the seeds in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "var" / "models" / "base"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=25)
    parser.add_argument("--directory", type=Path, help="kept; a run that was stopped goes on there")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="of the PPO config")
    args = parser.parse_args()
    folder = args.directory or Path(tempfile.mkdtemp(prefix="ppo-curve-"))
    folder.mkdir(parents=True, exist_ok=True)
    write_prompts(folder / "prompts.jsonl")
    settings = SETTINGS | dict(entry.split("=", 1) for entry in args.set)
    results = []
    for seed in args.seeds:
        results.append(run_seed(folder, args.model, seed, args.updates, settings))
        print(json.dumps(results[-1]), flush=True)
    wanted = ("minutes", "score_first", "score_last", "score_best_mean", "kl_last")
    means = {name: round(statistics.mean(result[name] for result in results), 3) for name in wanted}
    print(json.dumps({"seeds": args.seeds, "settings": settings, "directory": str(folder), "mean": means}))


if __name__ == "__main__":
    main()
