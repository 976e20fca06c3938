"""PPO updates and reward-model training beside another trainer's, in turns, in one run.

    python benchmarks/trainers.py [--model var/models/base] [--ppo-peer COMMAND] [--reward-peer COMMAND] [--turns 2]

A peer is a command that does the same work in its own environment and prints one JSON line with "median_s" (seconds a
PPO update: 16 prompts of 40 tokens, 48 new tokens, 4 epochs of one minibatch) or "pairs_per_s" (full fine-tuning,
batches of 8 pairs, up to 256 tokens), and "max_rss_gb". In it, {model}, {pairs} and {updates} are filled in. Ours and
the peer's take turns and the medians count, so that a busy machine slows both. Prints one JSON line.
"""

import argparse
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.records import Message

ROOT = Path(__file__).resolve().parent.parent
BATCH, PROMPT_TOKENS, NEW_TOKENS, EPOCHS, UPDATES = 16, 40, 48, 4, 3
PAIRS, PAIR_BATCH, PAIR_TOKENS = 64, 8, 256
WORDS = (
    "the", "river", "ran", "past", "a", "small", "stone", "house", "where", "my", "old", "aunt", "kept", "bees", "and",
    "sold", "honey", "to", "people", "from", "town", "who", "came", "by", "on", "foot", "in", "spring", "told", "her",
)  # fmt: skip


def prepare(folder: Path, model: str) -> None:
    """Write prompts that render to 40 tokens, pairs that fill 256, and a reward model of the policy's size."""
    code = (
        "import sys; from training.models import load_scorer, load_tokenizer, resolve_dtype;"
        "m = load_scorer(sys.argv[1], resolve_dtype('auto'), 'model'); m.score.weight.data.normal_(std=0.02);"
        "m.save_pretrained(sys.argv[2]); load_tokenizer(sys.argv[1], 'model').save_pretrained(sys.argv[2])"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, model, str(folder / "reward")], cwd=ROOT, check=True)
    from training.models import encode, load_tokenizer, render_prompt

    tokenizer, chance = load_tokenizer(model, "model"), random.Random(0)

    def text(tokens: int, length: Any) -> str:
        words: list[str] = []
        while length(" ".join([*words, "the"])) <= tokens:
            words.append(chance.choice(WORDS))
        return " ".join(words)

    def rendered(content: str) -> int:
        return len(encode(tokenizer, render_prompt(tokenizer, [{"role": "user", "content": content}])))

    def plain(content: str) -> int:
        return len(encode(tokenizer, content))

    fewest = rendered("the")
    lines = [{"prompt": [{"role": "user", "content": text(max(PROMPT_TOKENS, fewest), rendered)}]} for _ in range(64)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    # As plain text for a peer, and as dialogues for ours: of the same words, within the few tokens of a template.
    with (folder / "pairs.jsonl").open("w") as ours, (folder / "texts.jsonl").open("w") as theirs:
        for _ in range(PAIRS):
            prompt = text(60, plain)
            answers = {key: text(PAIR_TOKENS - 110, plain) for key in ("chosen", "rejected")}
            asked: list[Message] = [{"role": "user", "content": prompt}]
            ours.write(json.dumps({"prompt": asked} | {
                key: [{"role": "assistant", "content": answer}] for key, answer in answers.items()
            }) + "\n")  # fmt: skip
            rendering = {
                key: render_prompt(tokenizer, asked) + answer + tokenizer.eos_token for key, answer in answers.items()
            }
            theirs.write(json.dumps(rendering) + "\n")
    # One pair of another prompt, so that validation costs next to nothing.
    held = {"prompt": [{"role": "user", "content": "held out"}]} | {
        key: [{"role": "assistant", "content": key}] for key in ("chosen", "rejected")
    }
    (folder / "validation.jsonl").write_text(json.dumps(held) + "\n", encoding="utf-8")


def stage(name: str, output: Path, settings: dict[str, Any]) -> tuple[list[dict[str, Any]], float]:
    """Run one of our stages; return the lines of its progress and the most memory it had, in GB."""
    config = output.parent / "empty.toml"
    config.write_text("", encoding="utf-8")
    command = [sys.executable, "-W", "ignore", "-m", "training", name, "--config", str(config), "--output", str(output)]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{name} ended with {os.waitstatus_to_exitcode(status)}")
    lines = (output / "progress.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], round(usage.ru_maxrss / 1e6, 2)


def our_ppo(folder: Path, turn: int, model: str, critic: str, rank: int) -> dict[str, Any]:
    """Return the seconds an update of ours takes, by the clock of the whole update; the first is not counted."""
    lines, memory = stage("ppo", folder / f"ppo-{critic}-{rank}-{turn}", {
        "policy": model, "reward": str(folder / "reward"), "prompts": str(folder / "prompts.jsonl"),
        "updates": UPDATES + 1, "rollout_batch": BATCH, "minibatch": BATCH, "response_length": NEW_TOKENS,
        "ppo_epochs": EPOCHS, "critic": critic, "lora_rank": rank, "checkpoint_every": 100, "tensorboard": "false",
    })  # fmt: skip
    # By the token, for ours end where the model ends and a peer may not.
    seconds = [BATCH * NEW_TOKENS / line["throughput/response_tokens_per_s"] for line in lines[1:]]
    return {"median_s": round(statistics.median(seconds), 2), "max_rss_gb": memory}


def our_reward(folder: Path, turn: int, model: str) -> dict[str, Any]:
    """Return the pairs a second that ours trains on, by the clock of its steps (validation apart)."""
    lines, memory = stage("reward", folder / f"reward-{turn}", {
        "model": model, "train": str(folder / "pairs.jsonl"), "validation": str(folder / "validation.jsonl"),
        "epochs": 1, "batch": PAIR_BATCH, "max_length": PAIR_TOKENS, "evaluations": 1, "checkpoint_every": 1000,
        "tensorboard": "false",
    })  # fmt: skip
    return {"pairs_per_s": round(PAIRS / sum(line["time/update_s"] for line in lines), 2), "max_rss_gb": memory}


def peer(command: str, folder: Path, model: str) -> dict[str, Any]:
    """Run a peer's command; return the last line that it printed."""
    filled = command.format(model=model, pairs=folder / "texts.jsonl", updates=UPDATES)
    ended = subprocess.run(shlex.split(filled), check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return result


def medians(turns: list[dict[str, Any]]) -> dict[str, float]:
    """Return the median of every number over the turns."""
    return {
        name: round(statistics.median(turn[name] for turn in turns), 2)
        for name in ("median_s", "pairs_per_s", "max_rss_gb")
        if name in turns[0]
    }


def main() -> None:
    """Take turns; print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "var" / "models" / "base"))
    parser.add_argument("--ppo-peer", default="", help="command; full fine-tuning")
    parser.add_argument("--ppo-lora-peer", default="", help="command; LoRA of rank 16")
    parser.add_argument("--reward-peer", default="", help="command")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[], help="names of the kinds of work, as printed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trainers-") as temporary:
        folder = Path(temporary)
        prepare(folder, args.model)
        work: dict[str, Callable[[int], dict[str, Any]]] = {
            "ppo_head": lambda turn: our_ppo(folder, turn, args.model, "head", 0),
            "ppo_separate": lambda turn: our_ppo(folder, turn, args.model, "separate", 0),
            "ppo_head_lora": lambda turn: our_ppo(folder, turn, args.model, "head", 16),
            "reward": lambda turn: our_reward(folder, turn, args.model),
        }
        for name, command in (
            ("ppo_peer", args.ppo_peer), ("ppo_lora_peer", args.ppo_lora_peer), ("reward_peer", args.reward_peer),
        ):  # fmt: skip
            if command:
                work[name] = lambda turn, command=command: peer(command, folder, args.model)  # type: ignore[misc]
        chosen = {name: do for name, do in work.items() if not args.only or name in args.only}
        seen: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
        for turn in range(args.turns):
            for name, do in chosen.items():
                seen[name].append(do(turn))
                print(f"{name} {turn + 1}: {json.dumps(seen[name][-1])}", file=sys.stderr, flush=True)
    report = {name: medians(turns) for name, turns in seen.items()}
    print(json.dumps({**report, "ratios": ratios(report)}))


def ratios(report: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return our time as a share of the peer's for PPO, and how many times the peer's rate for reward models."""
    found = {}
    for ours, theirs in (
        ("ppo_head", "ppo_peer"), ("ppo_separate", "ppo_peer"), ("ppo_head_lora", "ppo_lora_peer"),
    ):  # fmt: skip
        if ours in report and theirs in report:
            found[f"{ours}_to_peer_time"] = round(report[ours]["median_s"] / report[theirs]["median_s"], 3)
    if "reward" in report and "reward_peer" in report:
        found["reward_to_peer_rate"] = round(report["reward"]["pairs_per_s"] / report["reward_peer"]["pairs_per_s"], 2)
    return found


if __name__ == "__main__":
    main()
